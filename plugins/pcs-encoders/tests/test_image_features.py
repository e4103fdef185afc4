"""Features of references: whose they are, how they are cut, what an artifact keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pcs_core import fit, merge_personalizations, pretrain, recipe_from_document, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Example, Features, Masks, Record, Subject
from pcs_core.errors import ArtifactError, InputError, RecipeError
from pcs_encoders.face import FaceFeatures
from pcs_encoders.image import ImageFeatures
from pcs_encoders.pictures import on_background, square
from pcs_encoders.tail import TrainedTail
from pcs_testing import make_picture, make_subject


class Means:
    """Says the mean colour of a picture."""

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """The same, once for each half of the picture."""
        return torch.stack([half.mean(dim=(2, 3)) for half in images.chunk(2, dim=3)], 1)


def features_of(
    technique: ImageFeatures, subject: Subject, given: Features | None = None
) -> torch.Tensor:
    run: Any = SimpleNamespace(
        feature_model=lambda _: Means(),
        image_size=(32, 32),
        device=torch.device("cpu"),
        seed=0,
        features=given or Features(),
    )
    features = technique.extract(run, subject, Masks(), "start")
    assert features is not None
    assert features.keep == (technique.key,)
    return features.tensors[technique.key]


def plain(colour: tuple[float, float, float]) -> torch.Tensor:
    return torch.tensor(colour).view(3, 1, 1).expand(3, 20, 20).clone()


RED, BLUE = plain((1.0, 0.0, 0.0)), plain((0.0, 0.0, 1.0))


def test_several_references_give_their_mean() -> None:
    subject = replace(make_subject(images=2), images=(RED, BLUE), extra=())
    got = features_of(ImageFeatures.from_settings({}), subject)
    torch.testing.assert_close(got, torch.tensor([[0.5, 0.0, 0.5]]))


def test_each_concept_has_its_own_references_and_free_slots_are_zero() -> None:
    subject = Subject(
        name="two",
        concepts=(Concept("a", "<a>", "dog"), Concept("b", "<b>", "cat")),
        images=(RED, BLUE),
        captions=(None, None),
        extra=({"concept": "b"}, {"concept": "a"}),
    )
    got = features_of(ImageFeatures.from_settings({"slots": 3}), subject)
    torch.testing.assert_close(got, torch.tensor([[0, 0, 1.0], [1.0, 0, 0], [0, 0, 0]]))


def two_by(**said: Any) -> Subject:
    concepts = (Concept("a", "<a>", "dog"), Concept("b", "<b>", "cat"))
    return Subject(name="two", concepts=concepts, images=(RED, BLUE), **said)


FULL = torch.ones(1, 20, 20)
FIT = Features(examples=(Example(image=RED, captions=()),))
"""What a run knows in a fit, and not in a pre-training."""


@pytest.mark.parametrize(
    "said",
    [
        {"masks": {"a": (None, FULL), "b": (FULL, None)}},
        {"masks": {"a": (FULL * 0, FULL), "b": (FULL, FULL * 0)}},
        {"captions": ("a photo of <b>", "the dog at home")},
        {"extra": ({"concepts": ["b"]}, {"concepts": ["a"]})},
    ],
)
def test_masks_captions_and_json_say_whose_reference_a_picture_is(said: dict[str, Any]) -> None:
    got = features_of(ImageFeatures.from_settings({"slots": 2}), two_by(**said), FIT)
    torch.testing.assert_close(got, torch.tensor([[0, 0, 1.0], [1.0, 0, 0]]))


def test_a_picture_that_does_not_say_whom_it_shows_is_refused_in_a_fit() -> None:
    subject = two_by(captions=("a photo of <b>", None), files=("x.png", "y.png"))
    with pytest.raises(InputError, match=r"nothing says which concept y\.png shows: name it in"):
        features_of(ImageFeatures.from_settings({"slots": 2}), subject, FIT)


def test_more_concepts_than_slots_are_refused_in_a_fit() -> None:
    subject = two_by(captions=("<b>", "<a>"))
    with pytest.raises(InputError, match=r"has 2 concepts \(a, b\), and encoders.image encodes 1"):
        features_of(ImageFeatures.from_settings({}), subject, FIT)


def test_several_references_may_all_be_read() -> None:
    subject = Subject(
        name="two",
        concepts=(Concept("a", "<a>", "dog"), Concept("b", "<b>", "cat")),
        images=(RED, BLUE, RED),
        captions=(None,) * 3,
        extra=({"concept": "b"}, {"concept": "b"}, {"concept": "a"}),
    )
    settings = {"slots": 3, "output": "patches", "several": "join"}
    got = features_of(ImageFeatures.from_settings(settings), subject)
    assert got.shape == (3, 4, 3)
    red, blue, none = [1.0, 0, 0], [0, 0, 1.0], [0.0, 0, 0]
    torch.testing.assert_close(got[0], torch.tensor([red, red, none, none]))
    torch.testing.assert_close(got[1], torch.tensor([red, red, blue, blue]))
    assert not got[2].any()


def test_a_mask_cuts_and_whitens() -> None:
    picture = BLUE.clone()
    picture[:, 5:15, 5:15] = RED[:, :10, :10]
    mask = torch.zeros(1, 20, 20)
    mask[:, 5:15, 5:15] = 1.0
    base = make_subject(images=1)
    subject = replace(base, images=(picture,), masks={base.concept.name: (mask,)}, extra=())
    cut = features_of(ImageFeatures.from_settings({"crop": True}), subject)
    torch.testing.assert_close(cut, torch.tensor([[1.0, 0.0, 0.0]]))
    white = features_of(ImageFeatures.from_settings({"background": "white"}), subject)
    assert float(white[0, 1]) == pytest.approx(0.75, abs=0.03)


def test_a_face_is_of_unit_length() -> None:
    subject = replace(make_subject(images=1), images=(plain((0.3, 0.4, 0.0)),), extra=())
    got = features_of(FaceFeatures.from_settings({}), subject)
    assert float(got.norm()) == pytest.approx(1.0)


class Records:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Record:
        return Record(
            make_picture(index), "a photo of a dog", ("dog",), ((make_picture(index + 9),),)
        )


def recipe(slots: int = 2) -> Any:
    return recipe_from_document(
        {
            "recipe": {"id": "made-for-a-test", "framework": "PTA"},
            "use": [
                {"technique": "tokens.rare", "identifier": ""},
                {"technique": "encoders.image", "model": "tiny.image", "slots": slots},
                {"technique": "attention.parallel_adapter", "tokens": 1},
            ],
            "pretrain": [{"name": "p", "steps": 2, "batch": 2, "lr": 1e-2}],
            "phase": [],
            "fit": {},
            "sample": {"steps": 2, "scale": 2.0},
        }
    )


def test_a_pretrained_fit_trains_nothing_and_joins(backbone: Backbone) -> None:
    adapter = pretrain(recipe(), Records(), backbone)
    names = ("fido", "tom")
    artifacts = [
        fit(
            recipe(),
            make_subject(n, token=f"<{n}>", seed=i),
            backbone,
            adapter=adapter,
        )[0]
        for i, n in enumerate(names)
    ]
    # an adapter given as an object travels inside the artifact, one with a name stays where it is
    assert all(p.tensors for p in artifacts)
    kept = [
        replace(p, tensors={}, extra={"adapter": {"name": "x", "sha256": "y"}}) for p in artifacts
    ]
    joined = merge_personalizations(kept, backbone, method="join")
    assert [c.token for c in joined.concepts] == ["<fido>", "<tom>"]
    torch.testing.assert_close(joined.features["image"][1], artifacts[1].features["image"][0])
    with pytest.raises(ArtifactError, match="x"):
        sample(joined, backbone, "a photo of <fido> and <tom>")
    few = [replace(p, recipe=recipe(1)) for p in kept]
    with pytest.raises(InputError, match="takes at most 1 subject, these are 2"):
        merge_personalizations(few, backbone, method="join")
    picture = sample(artifacts[0], backbone, "a photo of <fido>")
    other = sample(
        replace(artifacts[1], concepts=artifacts[0].concepts), backbone, "a photo of <fido>"
    )
    assert not torch.equal(picture, other)


def test_a_fit_without_an_adapter_says_how_to_get_one(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="pcs pretrain made-for-a-test"):
        fit(recipe(), make_subject(), backbone)


def test_an_interrupted_pretraining_goes_on_bit_for_bit(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(recipe(), Records(), backbone)
    monkeypatch.setattr("pcs_engine.checkpoints.SECONDS", -1.0)
    read = Records.__getitem__
    calls = 0

    def break_off(self: Records, index: int) -> Record:
        nonlocal calls
        calls += 1
        return read(self, index)

    class Stop(Exception):
        pass

    def watch(progress: Any) -> None:
        if progress.index == 2:  # reported before its checkpoint is written: that of step 1 is left
            raise Stop

    with pytest.raises(Stop):
        pretrain(recipe(), Records(), backbone, work=tmp_path, watch=[watch])
    monkeypatch.setattr(Records, "__getitem__", break_off)
    again = pretrain(recipe(), Records(), backbone, work=tmp_path, resume=True)
    assert 0 < calls <= 2, "a record is read once"
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, again.tensors[name]), name


def wide() -> torch.Tensor:
    """Return a picture whose left half is red and right half blue, twice as wide as high."""
    picture = torch.zeros(3, 20, 40)
    picture[0, :, :20], picture[2, :, 20:] = 1.0, 1.0
    return picture


@pytest.mark.parametrize(("kind", "corner"), [("white", 1.0), ("black", 0.0)])
def test_a_picture_becomes_square_by_bars(kind: Any, corner: float) -> None:
    actual = square(wide(), (16, 16), kind)
    assert actual.shape == (3, 16, 16)
    assert actual[:, 0, 0].tolist() == pytest.approx([corner] * 3)
    assert actual[0, 8, 0].item() == pytest.approx(1.0)


def test_a_picture_becomes_square_as_clip_s_own_preprocessing_makes_it() -> None:
    """Shorter side scaled bicubically, the middle taken, against transformers' processor."""
    from PIL import Image
    from transformers import CLIPImageProcessor

    rng = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 5, 9, generator=rng)
    picture = torch.nn.functional.interpolate(picture[None], (100, 180), mode="bicubic")[0].clamp(
        0, 1
    )
    bytes_ = (picture * 255).round().byte()
    image = Image.fromarray(bytes_.permute(1, 2, 0).numpy())
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_normalize=False
    )
    expected = torch.as_tensor(processor(images=image, return_tensors="pt").pixel_values[0])
    actual = square(bytes_.float() / 255, (32, 32), "centre")
    assert float((actual - expected).abs().max()) < 3 / 255


def test_a_subject_s_background_is_noise_of_its_picture() -> None:
    """FastComposer: every channel of every pixel outside the mask is a byte of its own, 0 to 254."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 8:40, 8:40] = 1.0
    picture = torch.full((3, 64, 64), 0.25)
    noised = on_background(picture, mask, "random", 0)
    inside = mask.bool().expand_as(noised)
    assert torch.equal(noised[inside], picture[inside])
    outside = (noised[~inside] * 255).round()
    assert float(outside.min()) >= 0.0
    assert float(outside.max()) <= 254.0
    assert float(outside.mean()) == pytest.approx(127.0, abs=3.0)
    assert float(outside.std()) == pytest.approx(73.6, abs=3.0)
    assert torch.equal(on_background(picture, mask, "random", 0), noised)
    assert not torch.equal(on_background(picture, mask, "random", 1), noised)
    assert not torch.equal(
        on_background(picture + 0.1, mask, "random", 0)[~inside], noised[~inside]
    )


def tail_run() -> Any:
    from pcs_diffusers.vision import tiny_image

    return SimpleNamespace(
        feature_model=lambda _: tiny_image(),
        image_size=(32, 32),
        device=torch.device("cpu"),
        seed=0,
    )


def trained(references: int = 1, **settings: Any) -> tuple[Features, TrainedTail]:
    technique = ImageFeatures.from_settings({"slots": 3, "trained_layers": 2, **settings})
    run = tail_run()
    subject = replace(make_subject(images=references), extra=())
    features = technique.extract(run, subject, Masks(), "start")
    assert features is not None
    fusion = technique.fuse(run, features)
    assert fusion is not None
    return features, fusion.edits[0]


def test_the_encoder_s_last_blocks_train_and_begin_at_what_they_were() -> None:
    """FastComposer trains two of them; before that the vector is the frozen encoder's."""
    features, edit = trained(references=2)
    assert features.tensors["image.states"].shape == (3, 2, 17, 32)
    assert set(features.keep) == {"image", "image.states"}
    streamed = edit.stream(features.tensors["image.states"][None])
    torch.testing.assert_close(streamed[0], features.tensors["image"], atol=1e-5, rtol=1e-4)
    assert not streamed[0, 1:].any(), "slots without a concept stay empty"
    names = set(edit.owned())
    assert all(name.startswith("tail/blocks/") for name in names)
    assert {name.split("/")[2] for name in names} == {"0", "1"}
    streamed.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in edit.parameters())


def test_an_encoder_without_blocks_cannot_train() -> None:
    technique = ImageFeatures.from_settings({"trained_layers": 2})
    run: Any = SimpleNamespace(
        feature_model=lambda _: Means(), image_size=(32, 32), device="cpu", seed=0
    )
    with pytest.raises(RecipeError, match="has no blocks that could train"):
        technique.fuse(run, Features())
    with pytest.raises(InputError, match="has 2 blocks: the last 3 cannot train"):
        trained(trained_layers=3)


@pytest.mark.parametrize(
    ("settings", "reads"),
    [
        ({}, False),
        ({"crop": True}, True),
        ({"background": "white"}, True),
        ({"background": "random"}, True),
    ],
)
def test_masks_are_read_where_the_settings_use_them(settings: Any, reads: bool) -> None:
    assert bool(ImageFeatures(**settings).words().may_read) is reads
