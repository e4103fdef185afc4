"""A phase may have pictures smaller than the backbone's: scaled, encoded once, and said to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Phase
from pcs_core.errors import RecipeError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import checkpoints as checkpoints_module
from pcs_engine import fit
from pcs_engine import progress as progress_module
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

SEEN: list[tuple[str, tuple[int, ...], dict[str, tuple[int, ...]], torch.Tensor]] = []


class Watching(Technique):
    """Notes the sizes of each step."""

    id = "test.watching"

    @hookimpl
    def regularize(self, step: Any) -> None:
        batch = step.batch
        masks = {key: tuple(mask.shape[-2:]) for key, mask in batch.masks.items()}
        corner = batch.extra["picture.corner"]
        SEEN.append((step.phase, tuple(batch.latents.shape[-2:]), masks, corner))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    SEEN.clear()


def phases(*sizes: int) -> list[Phase]:
    return [Phase(f"p{i}", 1, lr={"*": 1e-2}, size=size) for i, size in enumerate(sizes)]


def test_each_phase_sees_its_own_size(backbone: Backbone) -> None:
    whole, factor = backbone.card.size[0], backbone.card.size[0] // backbone.latent_shape[-1]
    fit(make_recipe([Watching(), Probe()], *phases(whole // 2, 0, whole)), make_subject(), backbone)
    half, full = whole // 2 // factor, whole // factor
    assert [latents for _, latents, _, _ in SEEN] == [(half, half), (full, full), (full, full)]


def test_pictures_of_one_size_are_encoded_once(backbone: Backbone, monkeypatch: Any) -> None:
    sizes = []
    moments = backbone.moments

    def counted(images: torch.Tensor) -> Any:
        sizes.append((len(images), images.shape[-1]))
        return moments(images)

    monkeypatch.setattr(backbone, "moments", counted)
    half, whole = backbone.card.size[0] // 2, backbone.card.size[0]
    recipe = make_recipe([Watching(), Probe()], *phases(half, 0, half, 0))
    subject = make_subject()
    fit(recipe, subject, backbone)
    count = len(subject.images)
    assert sizes == [(count, half), (count, whole)]


def test_what_the_network_is_told_of_a_crop_is_scaled(backbone: Backbone) -> None:
    subject = make_subject(size=(64, 96))
    fit(make_recipe([Watching(), Probe()], *phases(16, 0)), subject, backbone)
    (_, _, _, small), (_, _, _, large) = SEEN
    assert float(large[0, 1]) > 0
    torch.testing.assert_close(small, large / 2)


def test_a_resumed_fit_goes_on_at_the_size_it_had(
    backbone: Backbone, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(checkpoints_module, "SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "REPORT_EVERY", 1)
    recipe = make_recipe([Watching(), Probe()], *phases(16, 0, 16))
    (whole,) = fit(recipe, make_subject(), backbone)

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.done >= 2:
            raise Stop

    with pytest.raises(Stop):
        fit(recipe, make_subject(), backbone, work=tmp_path, watch=(stop,))
    SEEN.clear()
    (resumed,) = fit(recipe, make_subject(), backbone, work=tmp_path, resume=True)
    assert [phase for phase, _, _, _ in SEEN] == ["p1", "p2"]
    assert all(torch.equal(t, whole.tensors[k]) for k, t in resumed.tensors.items())


@pytest.mark.parametrize(
    ("size", "words"), [(64, "larger than the 32 x 32"), (15, "multiples of"), (17, "multiples of")]
)
def test_a_size_that_cannot_be_had_is_refused(backbone: Backbone, size: int, words: str) -> None:
    with pytest.raises(RecipeError, match=f"phase 'p0'.*{words}"):
        fit(make_recipe([Watching(), Probe()], *phases(size)), make_subject(), backbone)
    assert SEEN == []


def test_a_pre_training_has_no_size_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = '[recipe]\nid = "mine"\n[[use]]\ntechnique = "weights.full"\n'
    file.write_text(text + '[[pretrain]]\nname = "all"\nsteps = 1\nsize = 256\n')
    with pytest.raises(RecipeError, match="size is for the phases of a fit"):
        load_recipe(file)
