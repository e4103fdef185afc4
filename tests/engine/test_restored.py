"""Going back to a subject makes none of its edits again, and draws the same as when it was new."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core.assembly import load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization
from pcs_engine import fit, open_backbone, restoring, sample
from pcs_testing import make_subject


def artifact(backbone: Backbone, seed: int, system: str = "lora-dreambooth") -> Personalization:
    """A subject of one step, its tensors moved far from where they started."""
    few = ["tune.steps=1"]
    if system == "dreambooth":
        few.append("regularizers.prior_preservation.count=2")
    recipe = load_recipe(system, backbone="tiny", overrides=few)
    fitted = fit(recipe, make_subject(seed=seed), backbone, seed=seed)[0]
    return replace(fitted, tensors={k: v + 0.1 for k, v in fitted.tensors.items()})


@pytest.fixture(scope="module")
def artifacts(backbone: Backbone) -> list[Personalization]:
    return [artifact(backbone, seed) for seed in (0, 1)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was put together, in order."""
    calls: list[Any] = []
    real = restoring.restore

    def counted(who: Any, *args: Any) -> Any:
        calls.append(who)
        return real(who, *args)

    monkeypatch.setattr(restoring, "restore", counted)
    return calls


def draw(who: Personalization, backbone: Backbone, **options: Any) -> torch.Tensor:
    return sample(who, backbone, "a photo of <fido>", steps=2, **options)


def test_back_and_forth_makes_each_subject_once(
    artifacts: list[Personalization], made: list[Any]
) -> None:
    backbone = open_backbone("tiny")
    drawn = [draw(artifacts[i % 2], backbone, seed=i) for i in range(4)]
    assert [next(i for i, p in enumerate(artifacts) if p is m) for m in made] == [0, 1]
    assert not torch.equal(drawn[0], drawn[1])
    for i, actual in enumerate(drawn):
        assert torch.equal(actual, draw(artifacts[i % 2], open_backbone("tiny"), seed=i))


def test_a_tensor_that_was_trained_on_is_read_again(
    artifacts: list[Personalization], made: list[Any]
) -> None:
    backbone = open_backbone("tiny")
    tensors = {k: v.clone() for k, v in artifacts[0].tensors.items()}
    trained_on = replace(artifacts[0], tensors=tensors)
    before = draw(trained_on, backbone)
    for tensor in tensors.values():
        tensor.add_(1.0)
    assert not torch.equal(before, draw(trained_on, backbone))
    assert len(made) == 2


def test_a_replaced_tensor_lends_its_id_to_none(
    artifacts: list[Personalization], made: list[Any]
) -> None:
    """What stays ready is known by its tensors' ids: they live as long, else others get the ids."""
    backbone = open_backbone("tiny")
    changed = replace(artifacts[0], tensors={k: v.clone() for k, v in artifacts[0].tensors.items()})
    name = next(iter(changed.tensors))
    replaced = weakref.ref(changed.tensors[name])
    draw(changed, backbone)
    changed.tensors[name] = changed.tensors[name] + 1.0  # type: ignore[index]
    draw(changed, backbone)
    assert len(made) == 2
    assert replaced() is not None


def test_another_size_is_put_together_again(
    artifacts: list[Personalization], made: list[Any]
) -> None:
    backbone: Any = open_backbone("tiny")
    draw(artifacts[0], backbone)
    backbone.latent_shape = (4, 24, 20)
    backbone.card = replace(backbone.card, size=(48, 40))
    assert draw(artifacts[0], backbone).shape[-2:] == (48, 40)
    assert len(made) == 2


def test_who_is_drawn_while_drawn_gets_one_of_its_own(
    artifacts: list[Personalization], made: list[Any]
) -> None:
    backbone = open_backbone("tiny")
    inner: list[torch.Tensor] = []

    def again(progress: Any) -> None:
        if len(inner) < 1:
            inner.append(torch.empty(0))
            inner[0] = draw(artifacts[0], backbone, seed=5)

    outer = draw(artifacts[0], backbone, watch=(again,))
    assert len(made) == 2
    assert torch.equal(outer, draw(artifacts[0], open_backbone("tiny")))
    assert torch.equal(inner[0], draw(artifacts[0], open_backbone("tiny"), seed=5))


def test_only_some_stay_and_none_that_replaces_the_networks_weights(
    artifacts: list[Personalization], made: list[Any]
) -> None:
    backbone = open_backbone("tiny")
    several = [replace(artifacts[0]) for _ in range(restoring.KEPT + 1)]
    for who in (*several, several[-1], several[0]):
        draw(who, backbone)
    assert len(made) == restoring.KEPT + 2  # the first had to make room, and came back
    whole = artifact(backbone, 0, "dreambooth")
    made.clear()
    draw(whole, backbone)
    draw(whole, backbone)
    assert made == [whole, whole]


def test_what_stays_is_bounded_in_bytes_too(
    artifacts: list[Personalization], made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = open_backbone("tiny")
    monkeypatch.setattr(restoring, "KEPT_BYTES", 1)
    for who in (artifacts[0], artifacts[0], artifacts[1], artifacts[0]):
        draw(who, backbone)
    # the last one stays, whatever it holds
    assert [next(i for i, p in enumerate(artifacts) if p is m) for m in made] == [0, 1, 0]
