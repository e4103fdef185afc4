"""``pcs fit --masked-loss``: the error inside the masks, in a system whose recipe does not mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pcs_cli.fit_settings import with_masked_loss
from pcs_core import fit, load, load_recipe, load_subject
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_testing import make_recipe
from pcs_testing.brief import brief_settings

STEPS: list = []
SYSTEMS = (
    "textual-inversion",
    "lora-dreambooth",
    "dreambooth",
    "custom-diffusion",
    "oft",
    "styledrop",
)


class Spy(Technique):
    id = "test.masked_loss_of_fits"

    @hookimpl
    def regularize(self, step: object) -> None:
        STEPS.append(step)


@pytest.fixture
def masked(subject: Callable) -> Path:
    """A subject whose first picture has a mask."""
    folder = subject()
    image = Image.new("L", (36, 40), 0)
    image.paste(255, (4, 6, 22, 30))
    image.save(folder / "0.mask.png")
    return folder


def words(out: Path) -> tuple[object, ...]:
    named = ("--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--device", "cpu")
    return (*named, "--no-preview", "--out", out)


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_is_a_switch_of_every_system(
    pcs: Callable, masked: Path, tmp_path: Path, system: str
) -> None:
    plain = load_recipe(system, backbone="tiny")
    settings = [w for s in brief_settings(plain) for w in ("--set", s)]
    done = pcs("fit", system, masked, *settings, *words(tmp_path / "a"), "--masked-loss")
    assert done.code == 0, done.err
    assert "the error counts inside the masks" in done.err
    assert "those without a mask count whole: rex/1.png" in done.err
    assert "change nothing" not in done.err
    use = load(tmp_path / "a").recipe.uses[-1]
    assert (use.technique.id, use.technique.normalise) == ("masks.masked_loss", True)  # type: ignore[attr-defined]
    assert pcs("fit", system, masked, *settings, *words(tmp_path / "b")).code == 0
    read = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("a", "b")]
    assert read[0] != read[1]
    drawn = pcs("sample", tmp_path / "a", "a <rex>", "-n", 1, "--out", tmp_path / "drawn")
    assert drawn.code == 0, drawn.err


def test_the_error_over_how_much_the_mask_covers(masked: Path) -> None:
    (masked / "1.png").unlink()
    rex = load_subject(masked, noun="dog", token="<rex>")
    recipe = with_masked_loss(
        load_recipe("lora-dreambooth", backbone="tiny", overrides=["tune.steps=1", "tune.batch=3"])
    )
    STEPS.clear()
    uses = {"spy": Spy(), **{u.name: u.technique for u in recipe.uses}}
    (artifact,) = fit(make_recipe(uses, *recipe.phases), rex, "tiny")
    (step,) = STEPS
    mask = step.batch.regions["mask.concept.0"]
    raw = (step.output - step.target).detach() ** 2
    expected = (raw.mean(1, keepdim=True) * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    assert 0.05 < float(mask.mean()) < 0.6
    assert artifact.losses["core.denoise"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert torch.isfinite(expected).all()


def test_a_picture_on_a_ground_counts_as_others_do(masked: Path) -> None:
    """Custom Diffusion shrinks pictures; the ground around them must not raise their rows."""
    (masked / "1.png").unlink()
    rex = load_subject(masked, noun="dog", token="<rex>")
    changes = ["data.augment.rescale=[0.5, 0.6]", "tune.steps=4", "tune.batch={subject=3}"]
    plain = load_recipe("custom-diffusion", backbone="tiny")
    settings = [*brief_settings(plain), *changes]
    recipe = with_masked_loss(load_recipe("custom-diffusion", backbone="tiny", overrides=settings))
    STEPS.clear()
    uses = {"spy": Spy(), **{u.name: u.technique for u in recipe.uses}}
    fit(make_recipe(uses, *recipe.phases), rex, "tiny")
    seen = 0
    for step in STEPS:
        mask = step.masks.get("loss")
        small = [r for n, r in step.batch.regions.items() if n.startswith("mask.valid.")]
        for row in range(len(mask)):
            if small and small[0][row].max() > 0 and mask[row].min() == 0:
                seen += 1
                assert float(mask[row].mean()) == pytest.approx(1.0, abs=1e-4)  # else about 7
    assert seen > 3


def test_its_settings(pcs: Callable, masked: Path, tmp_path: Path, recipe: Path) -> None:
    change = ("--set", "masks.masked_loss.background=0.25", "--masked-loss")
    assert pcs("fit", recipe, masked, *words(tmp_path / "a"), *change).code == 0
    assert load(tmp_path / "a").recipe.uses[-1].technique.background == 0.25  # type: ignore[attr-defined]
    # a fit that goes on keeps it, as a part of the recipe
    more = ("--from", tmp_path / "a", "--no-preview", "--out", tmp_path / "b")
    assert pcs("fit", masked, *more).code == 0
    assert load(tmp_path / "b").recipe.uses[-1].technique.id == "masks.masked_loss"
    plan = pcs("fit", recipe, masked, *words(tmp_path / "c"), "--masked-loss", "--dry-run")
    assert "the error counts inside the masks, divided by how much they cover" in plan.out


@pytest.mark.parametrize("system", ["break-a-scene", "mix-of-show", "perfusion"])
def test_a_system_that_masks_already(
    pcs: Callable, masked: Path, tmp_path: Path, system: str
) -> None:
    done = pcs("fit", system, masked, *words(tmp_path / "a"), "--masked-loss")
    assert done.code == 2
    assert f"{system!r} counts its error inside masks already, by 'masks.masked_loss'" in done.err
    assert not (tmp_path / "a").exists()


def test_without_a_mask(pcs: Callable, subject: Callable, recipe: Path, tmp_path: Path) -> None:
    done = pcs("fit", recipe, subject(), *words(tmp_path / "a"), "--masked-loss")
    assert done.code == 2
    assert "no picture of 'rex' has a mask: lay <stem>.mask.png beside each" in done.err
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "a.partial").exists()
