"""Whatever a public function is given, its result comes out, or an error of PCS by the argument's name."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcs_core
from pcs_core import Technique, fit, load_recipe, load_subject, open_backbone, save
from pcs_core.errors import PcsError
from pcs_folders.pictures import write_png
from pcs_testing import make_picture

ELSEWHERE = {
    *("hookimpl", "catalogue_hookimpl", "fit_image", "shown_concepts", "said_concepts"),
    *("how_to_name_concepts", "pretrain", "installed", "cache_folder"),
}
"""Markers and services of plugins, which are no entry points of users, and what takes nothing; a pre-training
takes minutes."""
WRONG = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.text(max_size=4).filter(lambda text: not text.startswith("/")),
    st.binary(max_size=4),
    st.lists(st.none() | st.integers() | st.text(max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.none(), max_size=2),
    st.tuples(st.integers(-2, 40), st.integers(-2, 40)),
    st.builds(object),
    st.just(print),
    st.just(Path),
    st.just(Path("nowhere")),
    st.just(torch.zeros(2)),
    st.just(types),
)


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Any text is a folder to save in: none of them in the checkout."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("here"))
        yield


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Arguments that each function works with."""
    folder = tmp_path_factory.mktemp("valid")
    (folder / "rex").mkdir()
    for n in range(2):
        write_png(make_picture(n), folder / "rex" / f"{n}.png")
    backbone = open_backbone("tiny")
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=1"])
    subject = load_subject(folder / "rex", noun="dog", token="<rex>")
    (artifact,) = fit(recipe, subject, backbone)
    save(artifact, folder / "artifact")
    (folder / "words").mkdir()
    write_png(make_picture(0), folder / "words" / "a.png")
    (folder / "words" / "a.txt").write_text("a thing")
    return {
        "load": {"folder": folder / "artifact"},
        "save": {"artifact": artifact, "folder": folder / "saved", "overwrite": True},
        "open_backbone": {"name": "tiny"},
        "open_engine": {"backbone": backbone, "engine": "compile"},
        "load_recipe": {"source": "textual-inversion", "backbone": "tiny"},
        "load_preset": {"source": "fast"},
        "recipe_from_document": {"document": dict(recipe.document)},
        "load_subject": {"folder": folder / "rex", "noun": "dog", "token": "<rex>"},
        "read_planes": {"path": folder / "rex" / "0.png"},
        "write_png": {"image": make_picture(0), "path": folder / "written.png"},
        "sheet": {"images": [make_picture(0)], "columns": 1},
        "fit": {"recipe": recipe, "subjects": subject, "backbone": backbone},
        "sample": {
            **{"artifact": artifact, "backbone": backbone, "prompts": "a <rex>", "steps": 1},
        },
        "text_features": {"artifact": artifact, "backbone": backbone, "prompt": "a <rex>"},
        "merge_personalizations": {"artifacts": [artifact, artifact], "backbone": backbone},
        "stack_personalizations": {"artifacts": [artifact, artifact]},
        "export": {
            **{"what": artifact, "folder": folder / "exported", "to": "diffusers"},
            **{"backbone": backbone},
        },
        "FolderRecords": {"folder": folder / "words"},
    }


def public() -> dict[str, Callable[..., Any]]:
    members = {name: getattr(pcs_core, name) for name in pcs_core.__all__ if name not in ELSEWHERE}
    return {
        name: member
        for name, member in members.items()
        if callable(member)
        and not (isinstance(member, type) and issubclass(member, Exception | Technique))
        and not getattr(member, "_is_protocol", False)
    }


def parameters(function: Callable[..., Any]) -> list[str]:
    every = inspect.signature(function).parameters.values()
    return [p.name for p in every if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


PLACES = [(name, key) for name, function in public().items() for key in parameters(function)]


def call(valid: dict[str, dict[str, Any]], name: str, key: str, value: Any) -> str | None:
    """Return what a call is refused with, or None; whatever is no error of PCS gets out."""
    try:
        public()[name](**{**valid[name], key: value})
    except PcsError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("name", "key"), PLACES, ids=[".".join(place) for place in PLACES])
def test_what_is_nothing_at_all_is_refused_by_the_arguments_name(
    valid: dict[str, dict[str, Any]], name: str, key: str
) -> None:
    said = call(valid, name, key, object())
    assert said is not None
    assert key in said


@given(place=st.sampled_from(PLACES), value=WRONG)
def test_any_value_works_or_is_refused(
    valid: dict[str, dict[str, Any]], place: tuple[str, str], value: Any
) -> None:
    call(valid, *place, value)
