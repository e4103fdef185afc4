"""``pcs fit --keep-every``: artifacts along the way, and the same result as without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pcs_core import fit, load, load_recipe, load_subject
from pcs_core.errors import InputError

FOUR = ("--no-preview", "--set", "words.steps=5")


def test_artifacts_along_the_way(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, recipe: Path
) -> None:
    out, plain = tmp_path / "out" / "rex", tmp_path / "plain"
    done = pcs(*fit_arguments, *FOUR, "--keep-every", 2)
    assert done.code == 0, done.err
    assert "keeps 2 artifacts along the way, in steps/:" in done.err
    assert sorted(p.name for p in (out / "steps").iterdir()) == ["000002", "000004"]
    assert sorted(p.name for p in out.parent.iterdir()) == ["rex"]
    assert pcs(*fit_arguments[:-1], plain, *FOUR).code == 0
    for name in ("weights.safetensors", "manifest.json", "recipe.toml"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()
    # each is what a fit of so many steps ends in: this recipe's rates do not depend on their number
    short = tmp_path / "short"
    assert pcs(*fit_arguments[:-1], short, "--no-preview", "--set", "words.steps=2").code == 0
    kept = load(out / "steps" / "000002")
    assert all(torch.equal(kept.tensors[k], v) for k, v in load(short).tensors.items())
    assert kept.extra["steps"] == 2
    drawn = pcs("sample", out / "steps" / "000004", "a <rex>", "-n", 1, "--out", tmp_path / "drawn")
    assert drawn.code == 0, drawn.err
    more = pcs(
        "fit", "--from", out / "steps" / "000004", fit_arguments[2], "--out", tmp_path / "more"
    )
    assert "at 4 steps, 5 more" in more.err


def test_of_several_subjects(
    pcs: Callable, recipe: Path, subject: Callable, tmp_path: Path
) -> None:
    folders = [subject("rex"), subject("tom", seed=1)]
    words = ("--noun", "dog", "--token", "<it>", "--backbone", "tiny", "--device", "cpu", *FOUR)
    done = pcs("fit", recipe, *folders, *words, "--keep-every", 3, "--out", tmp_path / "both")
    assert done.code == 0, done.err
    for name in ("rex", "tom"):
        folder = tmp_path / "both" / name
        assert [p.name for p in (folder / "steps").iterdir()] == ["000003"]
        assert load(folder / "steps" / "000003").subject == name


def test_what_was_kept_outlives_an_interruption(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pcs_core.storage

    monkeypatch.setattr("pcs_engine.checkpoints.SECONDS", 0.0)
    save, calls = pcs_core.storage.save, []

    def once(*rest: object, **options: object) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(rest)
        save(*rest, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pcs_core.storage, "save", once)
        assert pcs(*fit_arguments, *FOUR, "--keep-every", 2).code == 130
    kept = tmp_path / "out" / "rex.partial" / "steps"
    assert [p.name for p in kept.iterdir()] == ["000002"]
    assert load(kept / "000002").extra["steps"] == 2
    assert pcs(*fit_arguments, *FOUR, "--keep-every", 2, "--resume").code == 0
    out = tmp_path / "out" / "rex"
    assert sorted(p.name for p in (out / "steps").iterdir()) == ["000002", "000004"]
    # what a fit wrote with them is replaced as a whole, and kept under no other name
    assert pcs(*fit_arguments, *FOUR, "--overwrite").code == 0
    assert sorted(p.name for p in out.parent.iterdir()) == ["rex"]
    assert not (out / "steps").exists()


def test_a_fit_that_diverges_leaves_what_was_good(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    rates = ("--set", "words.lr=1e20", "--set", "words.warmup=3")
    done = pcs(*fit_arguments, *FOUR, *rates, "--keep-every", 1)
    assert done.code == 2
    assert "diverged" in done.err
    assert "is not kept: it is not finite" in done.err
    kept = list((tmp_path / "out" / "rex.partial" / "steps").iterdir())
    assert kept
    for folder in kept:
        assert all(bool(t.isfinite().all()) for t in load(folder).tensors.values())


def test_the_plan_says_how_much_of_the_disk(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    done = pcs(*fit_arguments, "--keep-every", 2, "--dry-run", "--json")
    line, memory, *_ = json.loads(done.out)["plan"]
    assert memory.startswith("memory: weights ")
    assert line == "keeps 2 artifacts along the way, in steps/: 0.0 MB each, 0.0 MB in all"
    refused = pcs(*fit_arguments, "--keep-every", 6)
    assert refused.code == 2
    assert "--keep-every 6 keeps nothing: the fit has 6 steps" in refused.err
    assert pcs(*fit_arguments, "--keep-every", 0).code == 2
    assert not (tmp_path / "out").exists()


def test_in_python(recipe: Path, subject: Callable) -> None:
    rex = load_subject(subject(), noun="dog", token="<rex>")
    seen: list[int] = []
    short = load_recipe(recipe, overrides=["words.steps=4"])
    fit(short, rex, "tiny", every=2, each=lambda done, artifacts: seen.append(done))
    assert seen == [2]
    with pytest.raises(InputError, match="every=0: give a whole number, 1 or more"):
        fit(short, rex, "tiny", each=lambda done, artifacts: None)
