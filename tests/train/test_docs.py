"""The page about training says what the code does."""

import re
from pathlib import Path
from typing import get_args

import yaml
from standins import new_folder, parts, recipe

from windtunnel.train.config import TrainConfig
from windtunnel.train.optimizers.config import OPTIMIZERS
from windtunnel.train.runner import train_run
from windtunnel.train.schedule_config import ScheduleConfig

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def rows(pattern: str, start: str = "# ", end: str = "\n\\Z") -> dict[str, str]:
    """What the pattern finds between two headings."""
    part = re.search(f"^{start}.*?(?={end})", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert part is not None
    return dict(re.findall(pattern, part[0], flags=re.MULTILINE))


def test_the_table_of_the_recipe_has_every_key_and_default() -> None:
    table = rows(r"^\| `(\w+)` \| ([^|]*) \| [^|]* \|$", "## The recipe", "### ")
    assert list(table) == list(TrainConfig.model_fields)
    config = TrainConfig()
    for name, text in table.items():
        value = getattr(config, name)
        value = getattr(value, "type", list(value) if isinstance(value, tuple) else value)
        # YAML 1.1 reads 1e-08 as text
        assert float(text) == value if name == "eps" else yaml.safe_load(text) == value, name


def test_the_table_of_optimizers_has_every_type() -> None:
    table = rows(r"^\| `(\w+)` \| ([^|]*) \| [^|]* \|$", "### Optimizers", "### ")
    assert set(table) == set(OPTIMIZERS.names())


def test_the_table_of_schedules_has_every_type_and_floor() -> None:
    for kind in get_args(ScheduleConfig.model_fields["type"].annotation):
        (floor,) = re.findall(rf"^\| `{kind}` \| .* \| (\S+) \|$", PAGE, flags=re.MULTILINE)
        expected = ScheduleConfig(type=kind).min_ratio
        assert (None if floor == "–" else float(floor)) == expected


def test_the_table_of_events_has_every_field(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    train_run(parts(recipe(steps=2)), folder)
    table = rows(r"^\| `(\w+)` \| (`.*) \|$")
    for event in folder.read_events():
        assert set(event.values) <= set(re.findall(r"`(\w+)`", table[event.kind])), event.kind
