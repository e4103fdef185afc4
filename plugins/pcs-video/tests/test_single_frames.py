"""Frames as examples: one to a step, and only in the phases that ask for them."""

from __future__ import annotations

from typing import Any

import torch

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Backbone
from pcs_core.data import Phase, Subject
from pcs_testing import make_recipe
from pcs_testing.probe import Probe
from pcs_video.single_frames import SingleFrames

STEPS: list[Any] = []


class Spy(Technique):
    id = "test.spy"

    @hookimpl
    def regularize(self, step: Any) -> None:
        STEPS.append(step)


def test_a_phase_of_frames_sees_one_frame_a_step(backbone: Backbone, subject: Subject) -> None:
    STEPS.clear()
    uses = [SingleFrames(), Spy(), Probe()]
    phases = (
        Phase("spatial", 6, batch={"frame": 1}, lr={"*": 1e-2}),
        Phase("temporal", 2, batch={"subject": 1}, lr={"*": 1e-2}),
    )
    fit(make_recipe(uses, *phases), subject, backbone)
    spatial, temporal = STEPS[:6], STEPS[6:]
    assert {tuple(s.noisy.shape) for s in spatial} == {(1, 4, 1, 8, 8)}
    assert {tuple(s.noisy.shape) for s in temporal} == {(1, 4, 4, 8, 8)}
    clip = backbone.moments(subject.images[0][None])[0][0]
    whole = temporal[0].batch.latents[0]
    assert (whole - clip).abs().mean() < 0.5  # the posterior's own spread around the mean
    # frames are drawn at random, and are frames of this clip
    drawn = {
        int((clip - s.batch.latents[0]).square().mean(dim=(0, 2, 3)).argmin()) for s in spatial
    }
    assert len(drawn) > 1


def test_its_loss_is_that_of_the_frames_alone(backbone: Backbone, subject: Subject) -> None:
    STEPS.clear()
    phase = Phase("spatial", 1, batch={"frame": 2}, lr={"*": 1e-2})
    (artifact,) = fit(
        make_recipe([SingleFrames(weight=0.5), Spy(), Probe()], phase), subject, backbone
    )
    error = STEPS[0].error.detach().mean()
    assert abs(artifact.losses["video.single_frames"] - 0.5 * float(error)) < 1e-5
    assert artifact.losses["core.denoise"] == 0.0


def test_every_second_frame(backbone: Backbone, subject: Subject) -> None:
    from pcs_engine.prepare import extract
    from pcs_engine.run import EngineRun

    run = EngineRun(make_recipe([SingleFrames(every=2)]), backbone, concepts=[subject.concepts])
    (features,) = extract(run, [subject])[1]
    frames = [e.image for e in features.examples if e.role == "frame"]
    assert len(frames) == 2
    assert torch.equal(frames[1], features.examples[0].image[:, 2:3])
