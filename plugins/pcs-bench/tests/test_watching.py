"""Choosing a checkpoint: the fit is not disturbed, and the best trade is what comes back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pcs_bench.metrics
from pcs_bench.run.quality import Point
from pcs_bench.run.watching import Watch
from pcs_cli.main import main
from pcs_core import fit, load, load_recipe, open_backbone, write_png
from pcs_core.errors import InputError
from pcs_testing import make_picture, make_subject


@pytest.fixture(scope="module")
def backbone() -> Any:
    return open_backbone("tiny")


def recipe(steps: int = 8) -> Any:
    return load_recipe("lora-dreambooth", overrides=[f"tune.steps={steps}", "sample.steps=2"])


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


class Script:
    """Gives the scores it was told: a checkpoint, untuned, copies, then one number per checkpoint.

    ``noise`` goes up and down from picture to picture of the last.
    """

    def __init__(self, *values: float, noise: float = 0.0) -> None:
        self.values, self.noise = list(values), noise

    def score(self, pictures: Any, **_: Any) -> Any:
        value = torch.full((len(pictures),), self.values.pop(0))
        odd = torch.arange(len(pictures)) % 2
        return value if self.values else value + self.noise * (2 * odd - 1)


def test_drawing_at_checkpoints_does_not_disturb_the_fit(backbone: Any) -> None:
    subject = make_subject()
    seen = []

    def keep(artifacts: Any) -> list[bool]:
        from pcs_core import sample

        sample(artifacts[0], backbone, "a <fido>", seed=5, steps=2)
        seen.append(artifacts[0])
        return [True]

    (watched,) = fit(recipe(), subject, backbone, keep=keep, checkpoints=4)
    (alone,) = fit(recipe(), subject, backbone)
    assert len(seen) == 4  # steps 2, 4, 6 and the end
    assert same(watched, alone)
    assert not same(seen[0], seen[1])


def test_the_best_is_returned_for_each_subject(backbone: Any) -> None:
    subjects = [make_subject("fido"), make_subject("rex", seed=1)]
    seen = []

    def keep(artifacts: Any) -> list[bool]:
        seen.append(artifacts)
        return [len(seen) <= 2, len(seen) == 1]

    first, second = fit(recipe(), subjects, backbone, keep=keep, checkpoints=4)
    assert first is seen[1][0]
    assert second is seen[0][1]


def test_the_point_before_overfitting_is_kept(backbone: Any) -> None:
    subject = make_subject()
    # checkpoint, untuned, copies, then three more checkpoints; alignment falls, fidelity rises
    watch = Watch(
        [subject],
        backbone,
        alignment=Script(0.9, 0.9, 0.1, 0.8, 0.5, 0.15),
        fidelity=Script(0.2, 0.1, 0.9, 0.6, 0.7, 0.85),
    )
    shown = []

    def keep(artifacts: Any) -> list[bool]:
        shown.append(artifacts[0])
        return watch(artifacts)

    (kept,) = fit(recipe(), subject, backbone, keep=keep, checkpoints=4)
    assert kept is shown[1]
    qualities = [point.quality for point in watch.points["fido"]]
    assert qualities.index(max(qualities)) == 1
    assert [round(p.fidelity, 3) for p in watch.points["fido"]] == [0.125, 0.625, 0.75, 0.938]
    assert all(0 <= p.alignment <= 1 for p in watch.points["fido"])


def point(*pictures: tuple[float, float]) -> Point:
    alignment, fidelity = (sum(c) / len(c) for c in zip(*pictures, strict=True))
    return Point(alignment, fidelity, (alignment * fidelity) ** 0.5, pictures)


def test_a_lead_is_told_with_its_error() -> None:
    steady = point((0.6, 0.6), (0.8, 0.8)), point((0.5, 0.5), (0.7, 0.7))
    lead, error = steady[0].lead(steady[1])  # both pictures are better by as much
    assert lead == pytest.approx(0.1)
    assert error == pytest.approx(0, abs=1e-9)
    lead, error = point((0.9, 0.9), (0.5, 0.5)).lead(point((0.5, 0.5), (0.7, 0.7)))
    assert lead == pytest.approx(0.1)
    # with alignment equal to fidelity a quality is a mean, and the jackknife its standard error
    assert error == pytest.approx(torch.tensor([0.4, -0.2]).std().item() / 2**0.5)


def test_luck_does_not_keep_an_earlier_checkpoint(backbone: Any) -> None:
    def kept(noise: float) -> int:
        subject = make_subject()
        # the first of two checkpoints leads; `noise` falls on the pictures of the second alone
        eyes = Script(0.6, 0.9, 0.1, 0.55, noise=noise), Script(0.6, 0.1, 0.9, 0.55, noise=noise)
        watch = Watch([subject], backbone, *eyes)
        fit(recipe(2), subject, backbone, keep=watch, checkpoints=2)
        return watch.kept["fido"]

    assert kept(0.0) == 1
    assert kept(0.2) == 2


def test_no_resume_and_no_baseline_to_scale_by(backbone: Any) -> None:
    with pytest.raises(InputError, match="cannot be resumed"):
        fit(recipe(2), make_subject(), backbone, keep=lambda artifacts: [True], resume=True)
    flat = SimpleNamespace(score=lambda pictures, **_: torch.ones(len(pictures)))
    watch = Watch([make_subject()], backbone, alignment=flat, fidelity=flat)
    (kept,) = fit(recipe(2), make_subject(), backbone, keep=watch, checkpoints=2)
    assert kept.subject == "fido"


def photos(folder: Path) -> Path:
    for number in range(2):
        write_png(make_picture(number), folder / f"{number}.png")
    return folder


WORDS = [
    *("--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--no-preview"),
    *("--set", "tune.steps=8", "--set", "sample.steps=2"),
]


def test_the_command_keeps_what_the_watch_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = SimpleNamespace(score=lambda pictures, **_: torch.ones(len(pictures)))
    monkeypatch.setattr(pcs_bench.metrics, "get", lambda id: flat)
    folder = photos(tmp_path / "rex")
    fits = [
        ["fit", "lora-dreambooth", str(folder), *WORDS, "--out", str(tmp_path / n)] for n in "ab"
    ]
    assert main([*fits[0], "--watch", "fidelity"]) == 0
    assert main(fits[1]) == 0
    # nothing to tell checkpoints apart by: the longer fit is kept
    assert same(load(tmp_path / "a"), load(tmp_path / "b"))


def test_the_command_keeps_an_earlier_one_that_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # references tried; the first checkpoint, untuned, copies; then worse checkpoints
    script = [0.5, 0.8, 0.9, 0.1, *[0.2] * 7]
    scripts = {"clip-t": Script(*script), "clip-i": Script(*[0.5, 0.8, 0.1, 0.9, *[0.2] * 7])}
    monkeypatch.setattr(pcs_bench.metrics, "get", lambda id: scripts[id])
    folder = photos(tmp_path / "rex")
    fits = [
        ["fit", "lora-dreambooth", str(folder), *WORDS, "--out", str(tmp_path / n)] for n in "ab"
    ]
    assert main([*fits[0], "--watch", "fidelity"]) == 0
    assert main(fits[1]) == 0
    assert not same(load(tmp_path / "a"), load(tmp_path / "b"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--watch", "fydelity"], "did you mean 'fidelity'"),
        (["--watch", "fidelity", "--resume"], "leave out --resume"),
    ],
)
def test_what_the_command_refuses(
    tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path / "rex")
    given = ["fit", "lora-dreambooth", str(folder), *WORDS, "--out", str(tmp_path / "out"), *words]
    assert main(given) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
