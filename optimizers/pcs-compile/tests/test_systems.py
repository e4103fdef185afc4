"""Pre-trained systems: subjects and strengths are inputs; what acts when is decided outside."""

from __future__ import annotations

import pytest
import torch

from pcs_core import fit, load_recipe, open_engine, pretrain, sample
from pcs_core.backbone import Attachment, Backbone, tokenise
from pcs_core.data import (
    AttnEdit,
    AttnState,
    Conditioning,
    Fusion,
    Layout,
    Level,
    Personalization,
    Record,
)
from pcs_core.errors import CapabilityError

TOLERANCE = 1e-5


class Halved(AttnEdit):
    """Halves what one site adds."""

    def out(self, state: AttnState, cond: Conditioning) -> AttnState:
        state.out = state.out / 2
        return state


class Records:
    """Random pictures with captions."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Record:
        rng = torch.Generator().manual_seed(index)
        picture, reference = torch.rand(2, 3, 32, 32, generator=rng)
        return Record(
            image=picture,
            caption="a photo of a dog",
            phrases=("dog",),
            references=((reference,),),
            masks=(torch.ones(1, 32, 32),),
            extra={"points": torch.rand(5, 2, generator=rng)},
        )


@pytest.fixture(scope="module")
def engine(backbone: Backbone) -> Backbone:
    return open_engine(backbone, "compile", backend="aot_eager")


@pytest.fixture(scope="module")
def adapted(backbone: Backbone, subject) -> list[Personalization]:
    """Two subjects of one IP-Adapter."""
    settings = ["encoders.image.model=tiny.image", "adapter.steps=2", "adapter.batch=2"]
    recipe = load_recipe("ip-adapter", overrides=[*settings, "adapter.lr=1e-2"])
    adapter = pretrain(recipe, Records(), backbone)
    return [fit(recipe, subject(s), backbone, adapter=adapter)[0] for s in (1, 2)]


def test_subjects_and_strengths_compile_nothing(
    adapted: list[Personalization], backbone: Backbone, engine, trajectory, apart
) -> None:
    plans = [(artifact, {"image.scale": s}) for artifact in adapted for s in (1.0, 0.4)]
    drawn = [trajectory(plans[0][0], engine, strengths=plans[0][1])]
    compiled = engine.engine["compiled"]
    drawn += [trajectory(artifact, engine, strengths=s) for artifact, s in plans[1:]]
    assert engine.engine["compiled"] == compiled > 0
    for (artifact, strengths), actual in zip(plans, drawn, strict=True):
        expected = trajectory(artifact, backbone, strengths=strengths)
        assert apart(actual, expected) <= TOLERANCE
    for other in drawn[1:]:  # alive: every subject and every strength draws another picture
        assert apart(drawn[0], other) > 3 * TOLERANCE


def test_maps_and_gradients_are_refused(engine, backbone: Backbone) -> None:
    latents = torch.zeros(1, *backbone.latent_shape)
    level = Level(*(torch.full((1,), v) for v in (0.6, 0.8)), torch.full((1,), 500))
    with Attachment(engine, Fusion()) as net:
        cond = net.encode_text(tokenise(["a dog"], backbone.tokenizer))
        with pytest.raises(CapabilityError, match="records attention maps of cross"):
            net.evaluate(latents, level, cond, record=("cross",))
        with pytest.raises(CapabilityError, match="wants gradients"):
            net.evaluate(latents.requires_grad_(), level, cond)


class Remembering(Halved):
    """Says that it remembers."""

    ACROSS_STEPS = True


def test_what_is_kept_between_steps_is_refused(engine, backbone: Backbone) -> None:
    edit = Remembering(next(s for s in backbone.sites if s.kind == "cross"))
    edit.owner = "kept"
    with (
        pytest.raises(CapabilityError, match="'kept' keeps what the network said in one step"),
        Attachment(engine, Fusion(edits=(edit,))),
    ):
        pass
    with Attachment(engine, Fusion()):  # nothing of it is left
        pass


def test_layers_that_peft_changed_are_refused(engine, subject, backbone: Backbone) -> None:
    pytest.importorskip("peft")
    settings = ["tune.steps=1", "regularizers.prior_preservation.count=1"]
    recipe = load_recipe("oft", backbone="tiny", overrides=settings)
    (artifact,) = fit(recipe, subject(1), backbone)
    with pytest.raises(CapabilityError, match="peft changed layer"):
        sample(artifact, engine, "a photo of <one>", steps=1)
    sample(artifact, backbone, "a photo of <one>", steps=1)


SETTINGS = {
    "fastcomposer": [
        "encoders.image.model=tiny.image",
        "compose.steps=3",
        "compose.batch=2",
        "compose.lr=1e-2",
    ],
    "instantid": [
        "encoders.face.model=tiny.face",
        "attention.parallel_adapter.heads=4",
        "attention.parallel_adapter.depth=1",
        "fusion.control_branch.width=0.5",
        "identity.steps=3",
        "identity.batch=2",
        # steps of 1e-2 of a perceiver 1280 wide, and every face would give the same tokens
        'identity.lr={"attention.parallel_adapter/*" = 1e-4, "fusion.control_branch/*" = 1e-2}',
    ],
}
LAYOUT = Layout(points=((0.35, 0.4), (0.65, 0.4), (0.5, 0.55), (0.4, 0.7), (0.6, 0.7)))


@pytest.mark.slow
@pytest.mark.parametrize("system", sorted(SETTINGS))
def test_other_pretrained_systems(
    system: str, backbone: Backbone, engine, subject, trajectory, apart
) -> None:
    recipe = load_recipe(system, overrides=SETTINGS[system])
    adapter = pretrain(recipe, Records(), backbone)
    artifacts = [fit(recipe, subject(s), backbone, adapter=adapter)[0] for s in (1, 2)]
    # words of references stand in the text from a fifth of the sampling on
    options = {"layout": LAYOUT} if system == "instantid" else {"steps": 5}
    drawn = [trajectory(artifacts[0], engine, **options)]
    compiled = engine.engine["compiled"]
    drawn.append(trajectory(artifacts[1], engine, **options))
    assert engine.engine["compiled"] == compiled
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, backbone, **options)) <= TOLERANCE
    assert apart(*drawn) > 3 * TOLERANCE


def test_edits_of_a_part_of_the_sampling(backbone: Backbone, engine, trajectory, apart) -> None:
    """Which edits act is decided outside: two sets of edits, and no third compilation."""
    site = next(s for s in backbone.sites if s.kind == "cross")
    level = Level(*(torch.full((1,), v) for v in (0.6, 0.8)), torch.full((1,), 500))
    latents = torch.randn(1, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    outputs, counts = {}, []
    for on in (backbone, engine):
        edit = Halved(site, start=0.5)
        edit.owner = "halved"
        with Attachment(on, Fusion(edits=(edit,))) as net, torch.no_grad():
            cond = net.encode_text(tokenise(["a dog"], backbone.tokenizer))
            for progress in (0.0, 0.6, 0.1, 0.9):
                output = net.evaluate(latents, level, cond, progress=progress).output
                outputs.setdefault(progress, []).append(output)
                counts.append(engine.engine["compiled"])
            base = net.evaluate(latents, level, cond, progress=0.9, model="base").output
    for before, after in outputs.values():
        assert float((before - after).abs().max() / before.abs().max()) <= TOLERANCE
    assert torch.equal(outputs[0.0][1], base)
    assert not torch.equal(outputs[0.6][1], base)
    assert counts[5] == counts[-1] > counts[3]  # the third and the fourth call compile nothing
