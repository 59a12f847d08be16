"""Positions of attention: how queries and keys learn where they stand. One file each."""

from windtunnel.nn.discover import import_modules

import_modules(__name__, __path__)
