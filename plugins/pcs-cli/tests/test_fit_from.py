"""``pcs fit --from``: going on with a finished fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcs_core import fit, load, load_recipe, load_subject
from pcs_core.errors import InputError

COMMON = ("--device", "cpu", "--no-preview")
SYSTEMS = {
    "textual-inversion": ("token",),
    "lora-dreambooth": ("tune",),
    "custom-diffusion": ("tune",),
    "words": ("words",),
}


def steps(system: str, count: int) -> list[str]:
    extra = (
        ["--set", "regularizers.prior_preservation.count=2"] if system == "custom-diffusion" else []
    )
    extra += ["--set", "regularizers.prior_preservation.steps=2"] if extra else []
    return [*extra, *(w for name in SYSTEMS[system] for w in ("--set", f"{name}.steps={count}"))]


def extra(folder: Path) -> dict:
    return dict(json.loads((folder / "manifest.json").read_text())["extra"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_goes_on_from_the_weights(
    pcs: Callable, recipe: Path, subject: Callable, tmp_path: Path, system: str
) -> None:
    rex = subject()
    source = recipe if system == "words" else system
    words = ["--noun", "dog", "--token", "<rex>", "--backbone", "tiny", *COMMON]
    first, same, more = tmp_path / "first", tmp_path / "same", tmp_path / "more"
    done = pcs("fit", source, rex, *words, *steps(system, 3), "--out", first)
    assert done.code == 0, done.err
    done = pcs("fit", "--from", first, rex, *COMMON, *steps(system, 0), "--out", same)
    assert done.code == 0, done.err
    before, after = load(first), load(same)
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.tensors[k], after.tensors[k]) for k in before.tensors)
    done = pcs("fit", "--from", first, rex, *COMMON, *steps(system, 2), "--out", more)
    assert done.code == 0, done.err
    assert "goes on from the fit of 'rex' at 3 steps, 2 more" in done.err
    assert extra(more)["steps"] == 5
    started = extra(more)["started_from"]
    assert (started["subject"], started["steps"], started["seed"]) == ("rex", 3, 0)
    assert any(not torch.equal(before.tensors[k], v) for k, v in load(more).tensors.items())
    again = tmp_path / "again"
    assert pcs("fit", "--from", more, rex, *COMMON, *steps(system, 1), "--out", again).code == 0
    assert (extra(again)["steps"], extra(again)["started_from"]["steps"]) == (6, 5)
    assert pcs("sample", again, "a photo of <rex>", "-n", 1, "--out", tmp_path / "drawn").code == 0


def test_the_first_loss_is_where_the_fit_before_ended(subject: Callable, layers: Path) -> None:
    rex = load_subject(subject(), noun="dog", token="<rex>")
    changes = ["words.steps=0", "joint.lr=1e-2", "joint.batch=4"]

    def losses(start: object, count: int) -> tuple[list[float], object]:
        reported: list[float] = []
        short = load_recipe(layers, overrides=[*changes, f"joint.steps={count}"])
        watch = [lambda progress: reported.append(progress.losses["core.denoise"])]
        return reported, fit(short, rex, "tiny", watch=watch, start=start)[0]

    reported, long = losses(None, 60)
    # the draws of a fit that begins, so that both see the same rows and noise
    as_first = replace(long, extra={"steps": 0})
    (scratch,), _ = losses(None, 1)
    (continued,), _ = losses(as_first, 1)
    _, untrained = losses(None, 0)
    (begun,), _ = losses(untrained, 1)
    assert begun == scratch
    assert max(continued, reported[-1]) < 0.8 * scratch


def test_a_start_of_no_steps_is_a_fit_anew(subject: Callable, layers: Path) -> None:
    rex = load_subject(subject(), noun="dog", token="<rex>")
    short = load_recipe(layers, overrides=["words.steps=0", "joint.steps=0"])
    (untrained,) = fit(short, rex, "tiny", seed=3)
    (plain,) = fit(layers, rex, "tiny", seed=3)
    (continued,) = fit(layers, rex, "tiny", seed=3, start=untrained)
    assert all(torch.equal(plain.tensors[k], v) for k, v in continued.tensors.items())
    # a seed of its own for the draws; what the tensors start from keeps the artifact's
    (other,) = fit(layers, rex, "tiny", seed=4, start=untrained)
    assert (other.seed, other.extra["started_from"]["seed"]) == (3, 4)


def test_it_is_resumed_from_what_it_was_begun_with(
    pcs: Callable, fitted: Path, subject: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rex, out = subject(), tmp_path / "more"
    command = ["fit", "--from", fitted, rex, *COMMON, "--set", "words.steps=6", "--out", out]
    monkeypatch.setattr("pcs_engine.checkpoints.SECONDS", 0.0)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["pcs_engine.fit"].Fitting, "_finish", stop)
        done = pcs(*command)
    assert done.code == 130
    assert f"  pcs fit {rex} --out {out} --from {fitted} --set words.steps=6" in done.err
    assert pcs(*command, "--resume").code == 0
    assert extra(out)["steps"] == 12


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("textual-inversion", "{rex}"), "is a fit of 'words', not of 'textual-inversion'"),
        (("{rex}", "--backbone", "tiny-v"), "'tiny-v' has other weights"),
        (("{rex}", "--token", "<tom>"), "names <rex> (dog), and subject 'rex' <tom> (dog)"),
        (("{rex}", "{tom}"), "give one subject, not 2"),
        ((), "'words' learns from pictures: give a FOLDER"),
        (("{rex}", "--set", "tokens.learnable.vectors=3"), "shape"),
    ],
)
def test_what_is_refused(
    pcs: Callable,
    fitted: Path,
    subject: Callable,
    tmp_path: Path,
    words: tuple[str, ...],
    says: str,
) -> None:
    places = {"rex": subject(), "tom": subject("tom")}
    arguments = [word.format(**places) for word in words]
    done = pcs("fit", *arguments, "--from", fitted, *COMMON, "--out", tmp_path / "out")
    assert done.code == 2, done.err
    assert says in done.err, done.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_without_anything(pcs: Callable, tmp_path: Path) -> None:
    done = pcs("fit", "--out", tmp_path / "out")
    assert done.code == 2
    assert "give a SYSTEM (see pcs systems), or --from an artifact" in done.err


def test_a_dry_run_says_it(pcs: Callable, fitted: Path, subject: Callable, tmp_path: Path) -> None:
    done = pcs("fit", "--from", fitted, subject(), "--out", tmp_path / "out", "--dry-run")
    assert done.code == 0, done.err
    assert "goes on from the fit of 'rex' at 6 steps, 6 more" in done.out


def test_one_of_several_uses_differs(fitted: Path, subject: Callable, layers: Path) -> None:
    start = load(fitted)
    rex = load_subject(subject(), noun="dog", token="<rex>")
    with pytest.raises(InputError, match="is a fit of 'words', not of 'layers'"):
        fit(layers, rex, "tiny", start=start)
    changed = replace(load_recipe(layers), id="words")
    with pytest.raises(InputError, match=r"another list of uses.*'weights.lora' differs"):
        fit(changed, rex, "tiny", start=start)
