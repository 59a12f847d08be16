"""``python -m windtunnel`` is the command ``windtunnel``."""

from windtunnel.cli.main import main

main()
