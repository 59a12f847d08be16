"""The JSON schema of a run file as it is written: presets, patterns and blocks included."""

from __future__ import annotations

from typing import Any

from windtunnel.arch import preset_names
from windtunnel.train.run_config import RunConfig

_ENTRY = {"$ref": "#/$defs/LayerEntry"}
_STACKS = ("ArchSpec", "EncoderSpec", "DecoderSpec")


def run_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a run file, for completion and checks in an editor.

    It refuses no right file. It knows names, types and limits, and not what depends on other
    values: ``windtunnel check`` says more. Components of a file's ``plugins:`` are not in it.
    """
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    defs = schema["$defs"]
    _allow_presets(defs["ArchSpec"])
    _allow_short_forms(defs["LayerSpec"])
    defs["LayerPattern"] = {
        "description": "A pattern: {repeat: 2, layers: [a, b]} is a b a b.",
        "type": "object",
        "properties": {
            "repeat": {"type": "integer", "minimum": 1, "default": 1},
            "layers": {"type": "array", "minItems": 1, "items": _ENTRY},
        },
        "required": ["layers"],
        "additionalProperties": False,
    }
    block = {"type": "string", "description": "A layer's short form: norm > attention > +."}
    defs["LayerEntry"] = {
        "anyOf": [block, {"$ref": "#/$defs/LayerSpec"}, {"$ref": "#/$defs/LayerPattern"}]
    }
    for name in _STACKS:
        defs[name]["properties"]["layers"]["items"] = _ENTRY
        defs[name].pop("required", None)  # over a preset, a key may be left out
    return schema


def _allow_presets(arch: dict[str, Any]) -> None:
    arch["properties"]["preset"] = {
        "description": "A known architecture; the keys beside it are laid over it.",
        "enum": list(preset_names()),
    }
    arch["properties"]["set"] = {
        "description": "Edits by path, after the preset: {'layers[0].repeat': 4}.",
        "type": "object",
    }
    arch["properties"]["layers"]["minItems"] = 1
    arch["anyOf"] = [{"required": ["preset"]}, {"required": ["d_model"]}]


def _allow_short_forms(layer: dict[str, Any]) -> None:
    """``block`` in a layer, and ``placement`` in its norm."""
    properties = layer["properties"]
    properties["block"] = {
        "description": "The layer's short form: norm > attention > + > norm > mlp > +.",
        "type": "string",
    }
    placement = properties["placement"]
    for form in properties["norm"]["anyOf"]:
        if "properties" in form:
            form["properties"]["placement"] = placement
