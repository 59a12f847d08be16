"""The activations of the factory format."""

from __future__ import annotations

from enum import Enum
from typing import Any

from windtunnel.config.nearest import suggestion


class ActivationFunctions(Enum):
    """What stands between the two maps of a feed-forward; the GLU kinds gate it.

    >>> ActivationFunctions.parse("swiglu")
    <ActivationFunctions.SWIGLU: 'SWIGLU'>
    """

    RELU = "RELU"
    SILU = "SILU"
    GELU = "GELU"
    GEGLU = "GEGLU"
    REGLU = "REGLU"
    SWIGLU = "SWIGLU"

    @property
    def gated(self) -> bool:
        """Whether the first map is twice as wide: act(first half) · second half."""
        return self in _GATES

    @property
    def elementwise(self) -> str:
        """The elementwise function, by the name that feed-forwards know it by."""
        return _GATES.get(self, self.value.lower())

    @classmethod
    def parse(cls, value: Any) -> Any:
        """The member of that name, in capitals or not; ValueError where there is none."""
        if not isinstance(value, str):
            return value
        names = [member.name for member in cls]
        if value.upper() not in names:
            hint = suggestion(value.upper(), names)
            raise ValueError(f"unknown activation {value!r}{hint}")
        return cls[value.upper()]


_GATES = {
    ActivationFunctions.GEGLU: "gelu",
    ActivationFunctions.REGLU: "relu",
    ActivationFunctions.SWIGLU: "silu",
}
