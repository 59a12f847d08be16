"""Mixers: mix along time. Each module here registers its own."""

from windtunnel.nn.discover import import_modules

import_modules(__name__, __path__)
