"""MotionDirector's formulas, written down again from the paper, and what the techniques compute."""

from __future__ import annotations

import math
from typing import Any

import torch

from pcs_core import fit, load_recipe, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Subject
from pcs_testing import brief_settings, make_recipe
from pcs_video.motion_residual import MotionResidual
from pcs_video.noise_prior import NOISE, NoisePrior
from pcs_video.single_frames import SingleFrames

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


class Step:
    """A fit step of two clips with a known answer."""

    phase, index, progress = "motion", 3, 0.0

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(4)
        self.noisy, self.output, self.target = (
            torch.randn(2, 4, 6, 5, 3, generator=rng) for _ in range(3)
        )
        self.batch, self.subject, self.subjects = self, torch.tensor([0, 0]), 1
        self.level = self.cond = None
        self.asked: list[tuple[torch.Tensor, str]] = []

    def rows(self, role: str) -> torch.Tensor:
        return torch.tensor([role == "subject"] * 2)

    def evaluate(self, noisy: torch.Tensor, level: Any, cond: Any, **options: Any) -> Any:
        self.asked.append((noisy, options["edits"]))
        self.said = noisy * 0.5
        return type("Answer", (), {"output": self.said})()


class Run:
    def subject_rng(self, subject: int, purpose: str) -> Any:
        import random

        return random.Random(purpose)


def test_the_debiased_error_is_equation_7_and_8() -> None:
    """phi(e_i) = sqrt(beta^2 + 1) e_i - beta e_anchor; the term is the mean squared difference of both phi."""
    step, beta = Step(), 1.0
    technique = MotionResidual(beta=beta)
    given: Any = technique.regularize(run=Run(), step=step)  # type: ignore[arg-type]
    anchor = int(technique._anchors(Run(), step, 6)[0])  # type: ignore[arg-type]
    for row in range(2):
        total, count = 0.0, 0
        for i in range(6):
            said, expected = (
                math.sqrt(beta**2 + 1) * e[row, :, i].double() - beta * e[row, :, anchor].double()
                for e in (step.output, step.target)
            )
            total += float((said - expected).pow(2).sum())
            count += said.numel()
        torch.testing.assert_close(float(given.value[row]), total / count, rtol=1e-5, atol=1e-5)
    assert given.weight == 1.0


def test_a_frame_of_the_step_is_one_of_its_clip_as_noised_there() -> None:
    step = Step()
    technique = SingleFrames(of="step", edits=("words", "spatial"))
    loss: Any = technique.regularize(run=Run(), step=step)  # type: ignore[arg-type]
    ((noisy, edits),) = step.asked
    assert edits == "words,spatial"
    assert noisy.shape == (2, 4, 1, 5, 3)
    (frame,) = {i for i in range(6) if torch.equal(noisy[:, :, 0], step.noisy[:, :, i])}
    expected = (step.noisy[:, :, frame] * 0.5 - step.target[:, :, frame]).pow(2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss.value, expected, **CLOSE)
    drawn = set()
    for step.index in range(12):
        technique.regularize(run=Run(), step=step)  # type: ignore[arg-type]
        drawn |= {
            i for i in range(6) if torch.equal(step.asked[-1][0][0, :, 0], step.noisy[0, :, i])
        }
    assert len(drawn) > 3


def test_the_noise_prior_is_a_mixture_of_unit_variance(
    backbone: Backbone, subject: Subject
) -> None:
    """sqrt(p) of the inverted noise and sqrt(1 - p) of a new one (section 3.3; p = 0.5)."""
    (artifact,) = fit(
        make_recipe([NoisePrior(inverted=0.5, steps=2, prompt="")]), subject, backbone
    )
    inverted = artifact.features[NOISE]

    class At:
        features = type("F", (), {"tensors": {NOISE: inverted[None]}})()

    noise = torch.randn(1, *inverted.shape)
    mixed = NoisePrior(inverted=0.3)._mixed(At(), noise)  # type: ignore[arg-type]
    torch.testing.assert_close(
        mixed[0], math.sqrt(0.3) * inverted + math.sqrt(0.7) * noise[0], **CLOSE
    )


def test_the_clip_is_inverted_without_a_prompt() -> None:
    seen: list[str] = []

    class Asked:
        features = type(
            "F", (), {"examples": (type("E", (), {"role": "subject", "image": None}),)}
        )()

        def log(self, message: str) -> None: ...

        def invert(self, image: Any, prompt: str, *, steps: int) -> torch.Tensor:
            seen.append(prompt)
            return torch.zeros(2, 1)

    recipe = load_recipe("motiondirector")
    (prior,) = (u.technique for u in recipe.uses if u.technique.id == NoisePrior.id)
    concept = type("C", (), {"noun": "running"})()
    about = type("S", (), {"concepts": (concept,), "name": "run"})()
    prior.extract(run=Asked(), subject=about, moment="start")  # type: ignore[attr-defined]
    assert seen == [""]


def test_numbers_of_the_authors_configuration() -> None:
    recipe = load_recipe("motiondirector")
    uses = {u.name: u.technique.settings() for u in recipe.uses}
    assert [p.name for p in recipe.phases] == ["motion"]
    phase = recipe.phases[0]
    assert (phase.steps, phase.weight_decay, phase.clip, phase.warmup) == (150, 1e-2, 0.0, 0)
    assert dict(phase.lr) == {"*": 5e-4}
    assert uses["spatial"]["per_reference"]
    assert (uses["spatial"]["off"], uses["spatial"]["dropout"], uses["temporal"]["dropout"]) == (
        0.2,
        0.1,
        0.1,
    )
    assert uses["temporal"]["off"] == 0.0
    assert phase.reach == {
        "video.single_frames": ("spatial/*",),
        "core.denoise": ("temporal/*",),
        "video.motion_residual": ("temporal/*",),
    }


def test_one_step_trains_both_paths_each_by_its_loss(backbone: Backbone, subject: Subject) -> None:
    plain = load_recipe("motiondirector")
    few = [*brief_settings(plain), "motion.steps=2", "spatial.off=0.0", "motion.lr=1e-2"]
    recipe = load_recipe("motiondirector", overrides=few)
    (artifact,) = fit(recipe, subject, backbone)
    for path in ("spatial", "temporal"):
        moved = [t for n, t in artifact.tensors.items() if n.startswith(path) and n.endswith("/B")]
        assert any(bool(t.abs().max() > 0) for t in moved), path
    off = load_recipe("motiondirector", overrides=[*few, "spatial.off=0.999"])
    (without,) = fit(off, subject, backbone)
    spatial = [
        t for n, t in without.tensors.items() if n.startswith("spatial") and n.endswith("/B")
    ]
    assert not any(bool(t.abs().max() > 0) for t in spatial), "an update that is off learned"
    assert sample(artifact, backbone, "<run>", seed=1, steps=2).isfinite().all()
