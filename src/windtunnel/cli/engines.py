"""Where a study's workers run: the option of every verb that trains several runs.

A verb takes ``engine: EngineOption = "local"`` and works within ``with open_engine(engine) as
place:``: ``place.capacity()`` for the plan, ``conduct(…, engine=place)`` for the runs.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

EngineOption: TypeAlias = Annotated[
    str, typer.Option("--engine", metavar="NAME", help="Where workers run: local or ray[=ADDRESS].")
]
