"""What ``pcs-mini`` holds, as ids and import strings; importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pcs_core.hookspecs import catalogue_hookimpl

_HERE = Path(__file__).parent


def folder() -> Path:
    """The shipped weights, in the diffusers layout, with the record of what they know."""
    return _HERE / "weights"


def backbone() -> Path:
    """The same folder, its files compared with those that were shipped.

    Raises
    ------
    InputError
        One of them is missing or another.
    """
    from pcs_mini.digest import check_shipped

    check_shipped(folder())
    return folder()


def subjects_folder() -> Path:
    """Where the shipped reference subjects lie, one folder each."""
    return _HERE / "subjects"


def subjects() -> dict[str, Path]:
    """Name -> folder of each shipped reference subject."""
    files = sorted(subjects_folder().glob("*/subject.toml"))
    return {path.parent.name: path.parent for path in files}


@cache
def weights() -> str:
    """Digest of the shipped weights, which recorded runs must have been made with."""
    from pcs_mini.digest import weights_sha256

    return weights_sha256(folder())


def places() -> dict[str, str]:
    """Name -> phrase of every place of the world, as in ``{"beach": "on the beach"}``."""
    from pcs_mini.world.backdrops import SCENES, panoramas, phrase
    from pcs_mini.world.places import COLOURS

    return {place: phrase(place) for place in (*COLOURS, *SCENES, *panoramas())}


@catalogue_hookimpl
def backbones() -> Mapping[str, str]:
    """``mini``, the embedded backbone."""
    return {"mini": "pcs_mini.plugin:backbone"}


@catalogue_hookimpl
def profiles() -> Mapping[str, str]:
    """What Mini wants of a recipe that was published on another backbone."""
    return {"mini": "pcs_mini.profile:MINI"}


@catalogue_hookimpl
def feature_models() -> Mapping[str, str]:
    """What measures pictures of the world, and what adapters read of references."""
    return {
        "mini.clip": "pcs_mini.metrics.clip:load",
        "mini.views": "pcs_mini.metrics.views:load",
        "mini.identity": "pcs_mini.metrics.identity:load",
        "mini.image": "pcs_mini.metrics.judge:load",
        "mini.judge": "pcs_mini.metrics.judge:load",
        "mini.backdrop": "pcs_mini.metrics.judge:load_places",
    }


@catalogue_hookimpl
def datasets() -> Mapping[str, str]:
    """Reference folders, places of prompts, held-out members drawn to order, pre-training sets."""
    return {
        "mini.subjects": "pcs_mini.plugin:subjects",
        "mini.places": "pcs_mini.plugin:places",
        "mini.weights": "pcs_mini.plugin:weights",
        "mini.held-out": "pcs_mini.held_out:studio",
        "mini-world": "pcs_mini.records:world",
        "mini-people": "pcs_mini.records:people",
    }


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs mini``: the world, training, assembling, the gate, the subjects."""
    return {"mini": "pcs_mini.commands:app"}
