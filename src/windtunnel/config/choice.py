"""A field whose type is one of a registry's components: ``mlp: glu`` or ``mlp: {type: glu, …}``."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from windtunnel.config.nearest import suggestion


class Options(Protocol):
    """What a registry offers to configs: names, and the typed config of each."""

    def names(self) -> Iterable[str]: ...
    def config_class(self, name: str) -> type[BaseModel] | None: ...


_OPTIONS: dict[str, Options] = {}
_DESCRIBED: ContextVar[frozenset[str]] = ContextVar("kinds being described", default=frozenset())


def offer(kind: str, options: Options) -> None:
    """Makes a registry the source of the allowed types of ``Choice(kind)``."""
    _OPTIONS[kind] = options


@dataclass(frozen=True)
class Choice:
    """Marks a field as a component of ``kind``; its allowed types are looked up when it is read.

    Used as ``Annotated[MixerConfig, Choice("mixer", "attention")]``: a mapping without ``type`` is
    then an attention's. That is the type of the field's own default; where that has no keys
    (``none``), no default type is given, and ``type`` must be written.
    """

    kind: str
    default: str | None = None

    def names(self) -> tuple[str, ...]:
        return tuple(_OPTIONS[self.kind].names())

    def config_class(self, value: Any) -> type[BaseModel] | None:
        """The config class that a written value asks for, or None."""
        name = value.get("type", self.default) if isinstance(value, dict) else value
        return _OPTIONS[self.kind].config_class(name) if isinstance(name, str) else None

    def validate(self, value: Any) -> Any:
        """A typed config from a name, a mapping with ``type``, or a config as it is."""
        if isinstance(value, BaseModel):
            return value
        if value is None:
            value = "none"  # YAML's `null`, for those who write it so
        if not isinstance(value, dict | str):
            raise PydanticCustomError(
                "component", "expected a name or a mapping with `type`, not {shown}",
                {"shown": repr(value)},
            )  # fmt: skip
        if isinstance(value, dict) and "type" not in value:
            if self.default is not None:
                return self.validate({"type": self.default, **value})
            raise PydanticCustomError(
                "component", "`type` is missing{hint}", {"hint": suggestion("", self.names())}
            )
        cls = self.config_class(value)
        if cls is None:
            name = value["type"] if isinstance(value, dict) else value
            error = PydanticCustomError(
                "component", "unknown {kind} {name}{hint}",
                {"kind": self.kind.replace("_", " "), "name": repr(name),
                 "hint": suggestion(name, self.names())},
            )  # fmt: skip
            detail: InitErrorDetails = {"type": error, "loc": ("type",), "input": name}
            if not isinstance(value, dict):
                raise error
            raise ValidationError.from_exception_data("component", [detail])
        return cls.model_validate(value if isinstance(value, dict) else {"type": value})

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: value.model_dump(mode="json")
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        by_name: JsonSchemaValue = {"type": "string", "enum": list(self.names())}
        if "none" in self.names():  # YAML's `null`, for those who write it so
            by_name = {"type": ["string", "null"], "enum": [*self.names(), None]}
        if self.kind in _DESCRIBED.get():  # a part that holds a part of its own kind
            return {"anyOf": [by_name, {"type": "object", "required": ["type"]}]}
        token = _DESCRIBED.set(_DESCRIBED.get() | {self.kind})
        try:
            classes = [self.config_class(name) for name in self.names()]
            forms = [handler(cls.__pydantic_core_schema__) for cls in classes if cls is not None]
        finally:
            _DESCRIBED.reset(token)
        return {"anyOf": [by_name, *forms]}
