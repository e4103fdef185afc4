"""Networks that are not in use go to the host's memory; what a backward pass needs stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, load_recipe, open_backbone, sample
from pcs_core.data import Concept, Subject
from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.offload import keep_aside
from pcs_diffusers.tiny import tiny


def subject() -> Subject:
    return Subject(
        name="thing",
        images=(torch.full((3, 32, 32), 0.3), torch.full((3, 32, 32), 0.6)),
        concepts=(Concept(name="thing", token="<thing>", noun="dog"),),
    )


def short(system: str) -> Any:
    return load_recipe(system, backbone="tiny")


def offloaded(kind: str = "model") -> tuple[Any, Any]:
    """Return a tiny backbone and what moves its networks: here from the host's memory to the same."""
    if kind == "group":
        try:
            torch.accelerator.current_accelerator()
        except RuntimeError:  # torch 2.6: diffusers asks it, and no answer is an error there
            pytest.skip("this torch moves groups only beside an accelerator")
    backbone = tiny()
    return backbone, keep_aside(backbone, kind, "cpu")


@pytest.mark.parametrize("kind", ["model", "group"])
def test_a_drawing_is_the_same_and_has_one_network_at_a_time(kind: str) -> None:
    plain = sample(None, tiny(), "a dog", steps=3, seed=1)
    backbone, resident = offloaded(kind)
    assert torch.equal(sample(None, backbone, "a dog", steps=3, seed=1), plain)
    assert resident.here == {"vae"}
    came = [part for part, here in resident.moves if here]
    assert came == (["text", "denoiser", "vae"] if kind == "model" else ["text", "vae"])
    there: set[str] = set()
    for part, here in resident.moves:
        there = there | {part} if here else there - {part}
        assert len(there) <= 1


def test_a_fit_of_a_frozen_text_is_the_same_and_lets_go_what_is_encoded() -> None:
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["tune.steps=3"])
    plain = fit(recipe, subject(), tiny())[0]
    backbone, resident = offloaded()
    artifact = fit(recipe, subject(), backbone)[0]
    assert all(torch.equal(t, artifact.tensors[n]) for n, t in plain.tensors.items())
    assert resident.kept == {"denoiser"}
    assert "text" not in resident.here
    assert "vae" not in resident.here


def test_a_text_that_trains_stays() -> None:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=3"])
    plain = fit(recipe, subject(), tiny())[0]
    backbone, resident = offloaded()
    artifact = fit(recipe, subject(), backbone)[0]
    assert all(torch.equal(t, artifact.tensors[n]) for n, t in plain.tensors.items())
    assert resident.kept == {"denoiser", "text"}


def test_groups_are_refused_in_a_fit() -> None:
    backbone, _ = offloaded("group")
    with pytest.raises(CapabilityError, match="offload='group' is for drawings"):
        fit(short("lora-dreambooth"), subject(), backbone)


def test_what_makes_no_sense_is_refused(whole: Path) -> None:
    with pytest.raises(InputError, match="'modle': no such kind, did you mean 'model'"):
        open_backbone(whole, offload="modle")
    with pytest.raises(CapabilityError, match="in the host's memory already"):
        open_backbone(whole, offload="model")
