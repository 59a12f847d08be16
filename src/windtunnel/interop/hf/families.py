"""All families that are known here."""

from __future__ import annotations

from windtunnel.arch import Architecture
from windtunnel.config import suggestion
from windtunnel.errors import UsageError
from windtunnel.interop.hf import (
    bert,
    gpt2,
    gpt_bigcode,
    gpt_neox,
    llama,
    mamba,
    mamba2,
    phi,
    t5,
)
from windtunnel.interop.hf.family import Family, NotExpressible

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        gpt2.FAMILY,
        *llama.FAMILIES,
        gpt_neox.FAMILY,
        phi.FAMILY,
        gpt_bigcode.FAMILY,
        mamba.FAMILY,
        mamba2.FAMILY,
        bert.FAMILY,
        t5.FAMILY,
    )
}
"""By ``model_type``; an export that names none takes the first that fits."""


def family_of(model_type: str) -> Family:
    """The family of that ``model_type``.

    Raises:
        UsageError: it is not known; the message names those that are.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        near = suggestion(model_type, FAMILIES)
        raise UsageError(f"model_type {model_type!r} is not known here{near}")
    return family


def family_for(architecture: Architecture) -> Family:
    """The first family that expresses an architecture.

    Raises:
        NotExpressible: none does; the message is that of the one that comes closest.
    """
    refusals: list[str] = []
    for family in FAMILIES.values():
        try:
            family.to_config(architecture)
        except NotExpressible as refusal:
            refusals.append(str(refusal))
        else:
            return family
    closest = min(refusals, key=lambda text: text.count("\n"))
    raise NotExpressible(closest)
