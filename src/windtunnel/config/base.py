"""The base of every typed config: frozen, keyword-only, strict; an unknown key is an error."""

from __future__ import annotations

import unicodedata
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)


class Config(BaseModel):
    """A frozen value read from YAML.

    Each field is written once, with its meaning and unit in ``Field(description=…)``. A config is
    never changed: ``config.replace(lr=1e-3)`` gives a validated copy.

    >>> class Point(Config):
    ...     x: int = Field(ge=0, description="where it is")
    >>> Point(x=1).replace(x=2)
    Point(x=2)
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        revalidate_instances="never",
    )

    unwritten_defaults: ClassVar[frozenset[str]] = frozenset()
    """Fields that are not written out where they hold their default: what came later than the
    first digests. So a config that does not use such a field keeps its digest."""

    @field_validator("name", check_fields=False)
    @classmethod
    def _printable(cls, name: Any) -> Any:
        """Names are printed, also to terminals, which act on control characters."""
        if isinstance(name, str):
            bad = [c for c in name if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
            if bad:
                raise ValueError(f"a name takes no control characters such as {bad[0]!a}")
        return name

    @model_serializer(mode="wrap")
    def _without_unwritten(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in self.unwritten_defaults:
            if name in values and getattr(self, name) == type(self).model_fields[name].default:
                del values[name]
        return values

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated again."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**(values | changes))


def _parse_ratio(value: Any) -> Any:
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{value!r} is not a fraction such as 8/3") from None
    return value


_Fraction = Annotated[str, Field(pattern=r"^\s*\d+\s*/\s*\d+\s*$")]
Ratio = Annotated[
    float,
    BeforeValidator(_parse_ratio, json_schema_input_type=Annotated[float, Field(gt=0)] | _Fraction),
    Field(gt=0, allow_inf_nan=False),
]
"""A positive number that may be written as a fraction: ``8/3``."""
