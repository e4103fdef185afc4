"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> str:
    """The package that is searched for techniques."""
    return "pcs_tokens"


@catalogue_hookimpl
def optimizers() -> Mapping[str, str]:
    """Optimizers by id."""
    return {"cma-es": "pcs_tokens.evolution:Evolution"}


@catalogue_hookimpl
def mergers() -> Mapping[str, str]:
    """Ways to merge personalizations."""
    return {"mix-layers": "pcs_tokens.layerwise:mix_layers"}


@catalogue_hookimpl
def services() -> Mapping[str, str]:
    """What the command asks for by name: how prompts are read before anything is opened."""
    return {"weight_syntaxes": "pcs_tokens.weight_syntax:SYNTAXES"}
