from __future__ import annotations

from pathlib import Path

from windtunnel.nn.catalogue import catalogue
from windtunnel.nn.component import REGISTRIES

PAGE = Path(__file__).parents[2] / "docs" / "components.md"
PAGES = [PAGE.parents[1] / "README.md", *PAGE.parent.rglob("*.md")]


def test_the_page_of_components_is_up_to_date() -> None:
    told = "run `python -m windtunnel.nn.catalogue > docs/components.md`"
    assert PAGE.read_text(encoding="utf-8") == catalogue(), told


def test_what_must_be_written_is_called_required() -> None:
    assert "| `factor` | number > 0 | required |" in catalogue()
    for page in PAGES:
        assert "PydanticUndefined" not in page.read_text(encoding="utf-8"), page.name


def test_every_component_and_every_knob_is_on_the_page() -> None:
    page = catalogue()
    for registry in REGISTRIES.values():
        for name in registry.names():
            config = registry.config_class(name)
            assert config is not None
            assert f"### {name}\n" in page
            for key in set(config.model_fields) - {"type"}:
                assert f"| `{key}` |" in page
