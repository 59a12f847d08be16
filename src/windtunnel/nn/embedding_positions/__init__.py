"""Positions of embeddings: a vector for each position, added to the token's. One file each."""

from windtunnel.nn.discover import import_modules

import_modules(__name__, __path__)
