"""What Python callers give is read as what it is, or refused with the mend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Phase
from pcs_core.errors import InputError, PcsError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_engine import fit, sample
from pcs_engine.given import given_mask, given_picture, given_subject
from pcs_folders import said_colour
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
MEANT = torch.from_numpy(LEVELS).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(
    "image",
    [
        MEANT,
        MEANT.double(),
        torch.from_numpy(LEVELS).permute(2, 0, 1),
        LEVELS,
        LEVELS[::-1][::-1],
        LEVELS.astype(np.float32) / 255,
        Image.fromarray(LEVELS, "RGB"),
    ],
    ids=["floats", "doubles", "uint8", "array", "strided", "array of floats", "PIL"],
)
def test_one_picture_in_every_form(image: Any) -> None:
    read = given_picture(image, "images[0]")
    assert read.dtype == torch.float32
    torch.testing.assert_close(read, MEANT)


def test_a_grey_picture_of_pil_is_read_as_grey() -> None:
    grey = Image.fromarray(LEVELS[..., 0], "L")
    assert torch.equal(given_picture(grey, "here"), MEANT[:1].expand(3, -1, -1))


def sideways() -> Any:
    image = Image.fromarray(LEVELS, "RGB")
    image.getexif()[274] = 6
    return image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (MEANT * 255, "values from .* divide it by 255"),
        (MEANT * 2 - 1, r"give \(x \+ 1\) / 2"),
        (torch.full((3, 4, 4), float("nan")), "nan or inf"),
        (torch.full((3, 4, 4), float("inf")), "nan or inf"),
        (MEANT.permute(1, 2, 0), r"image.permute\(2, 0, 1\)"),
        (MEANT[:1], r"shape \[1, 6, 4\]: give RGB"),
        (MEANT[None], r"shape \[1, 3, 6, 4\]"),
        (torch.zeros(3, 0, 4), r"shape \[3, 0, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.long), "torch.int64"),
        (LEVELS[..., 0], r"array of shape \[6, 4\]"),
        (Image.new("RGBA", (4, 6)), "mode RGBA"),
        (sideways(), "exif_transpose"),
        ("a.png", "is a str"),
    ],
)
def test_what_would_be_another_picture_is_refused(image: Any, words: str) -> None:
    with pytest.raises(InputError, match=rf"images\[3\].*{words}"):
        given_picture(image, "images[3]")


def test_masks_are_of_their_images_size_and_in_the_unit_interval() -> None:
    mask = torch.tensor([[True, False]] * 2)
    image = torch.zeros(3, 2, 2)
    assert given_mask(mask, image, "m").tolist() == [[[1.0, 0.0]] * 2]  # type: ignore[union-attr]
    assert given_mask(None, image, "m") is None
    for wrong, words in (
        (torch.zeros(1, 3, 2), "size, "),
        (torch.full((1, 2, 2), 255.0), "divide it by 255"),
        (torch.full((1, 2, 2), float("nan")), "nan"),
    ):
        with pytest.raises(InputError, match=words):
            given_mask(wrong, image, "m")


@pytest.mark.parametrize("name", ["captions", "files", "extra", "masks"])
def test_one_entry_for_each_image(name: str) -> None:
    subject = make_subject()
    value: Any = {"fido": (None,)} if name == "masks" else getattr(subject, name)[:1]
    with pytest.raises(InputError, match=f"{name}.* has 1 entries for 2 images"):
        given_subject(replace(subject, **{name: value}))


def test_a_fit_of_bytes_is_that_of_their_floats(backbone: Backbone) -> None:
    recipe = make_recipe([Probe()], Phase("p", 2, lr={"*": 1e-2}))
    subject = make_subject()
    levels = tuple((image * 255).round().to(torch.uint8) for image in subject.images)
    floats = tuple(image.float() / 255 for image in levels)
    of_bytes, of_floats = (
        fit(recipe, replace(subject, images=images), backbone)[0].tensors
        for images in (levels, floats)
    )
    assert all(torch.equal(of_bytes[k], of_floats[k]) for k in of_floats)
    scaled: Any = tuple(image * 255 for image in subject.images)
    with pytest.raises(InputError, match=r"images\[0\].*divide it by 255"):
        fit(recipe, replace(subject, images=scaled), backbone)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count=0"),
        ({"count": True}, "count=True"),
        ({"steps": 0}, "steps=0"),
        ({"steps": -3}, "steps=-3"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"scale": -1.0}, "scale=-1.0"),
        ({"strengths": {"style": float("inf")}}, "strength style=inf"),
    ],
)
def test_numbers_that_draw_nothing(backbone: Backbone, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        sample(None, backbone, "a dog", **options)


@pytest.mark.parametrize("kind", ["float", "uint8", "clip"])
def test_a_large_picture_is_scaled_to_twice_what_is_shown(kind: str) -> None:
    """A fit holds no photograph at its full size, whoever read it."""
    image = torch.rand(3, 200, 300)
    mask = torch.zeros(1, 200, 300)
    mask[..., :150] = 1.0
    if kind == "uint8":
        image = (image * 255).to(torch.uint8)
    if kind == "clip":
        image, mask = image[:, None].expand(3, 5, 200, 300), None
    subject = replace(
        make_subject(images=2), images=(image, torch.rand(3, 50, 60)), masks={"fido": (mask, None)}
    )
    small = given_subject(subject, (32, 32))
    assert tuple(small.images[0].shape) == ((3, 5, 64, 96) if kind == "clip" else (3, 64, 96))
    assert small.images[1] is subject.images[1]
    assert 0 <= float(small.images[0].min()) <= float(small.images[0].max()) <= 1
    if mask is not None:
        assert tuple(small.masks["fido"][0].shape) == (1, 64, 96)
        assert float(small.masks["fido"][0].mean()) == pytest.approx(0.5, abs=0.01)
    assert tuple(given_subject(subject).images[0].shape) == tuple(image.shape)
    wrong = replace(
        subject,
        images=(torch.rand(3, 200, 300),) * 2,
        masks={"fido": (torch.zeros(1, 64, 96), None)},
    )
    with pytest.raises(InputError, match="give \\[1 h w\\] of its image's size"):
        given_subject(wrong, (32, 32))


@pytest.mark.parametrize("shape", [(1, 0, 8, 6), (1, 1, 8, 6), (0, 8, 6), (1, 8, 6, 1)])
def test_a_mask_has_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        InputError, match="a mask has shape .* give \\[1 h w\\] of its image's size"
    ):
        given_mask(torch.ones(shape), torch.ones(3, 8, 6), "a mask")


def test_a_fit_sees_no_picture_larger_than_that() -> None:
    shapes: list[tuple[int, ...]] = []

    class Looks(Technique):
        id = "test.looks_at_pictures"

        @hookimpl
        def extract(self, subject: Any, moment: str) -> None:
            shapes.extend(tuple(image.shape) for image in subject.images)

    subject = replace(
        make_subject(images=2), images=(torch.rand(3, 200, 300), torch.rand(3, 40, 40))
    )
    fit(make_recipe([Looks(), Probe()], Phase("p", 1)), subject, "tiny")
    assert shapes[:2] == [(3, 64, 96), (3, 40, 40)]


MASK = (LEVELS[..., 0] > 127).astype(np.uint8)


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK * 255,
        MASK.astype(np.int64),
        MASK.astype(bool),
        MASK[..., None].astype(">f4"),
        torch.from_numpy(MASK).to_sparse(),
        Image.fromarray(MASK * 255),
        Image.fromarray(MASK * 255).convert("1"),
    ],
    ids=["0 and 1", "0 and 255", "int64", "bool", "big-endian [h w 1]", "sparse", "PIL L", "PIL 1"],
)
def test_one_mask_in_every_form(mask: Any) -> None:
    read = given_mask(mask, MEANT, "masks['dog'][0]")
    assert read is not None
    assert torch.equal(read, torch.from_numpy(MASK)[None].float())


def test_a_picture_of_pil_is_converted_by_its_profile() -> None:
    image = Image.new("RGB", (4, 6), (200, 60, 60))
    image.info["icc_profile"] = said_colour._rgb_profile(said_colour.ADOBE, lambda v: v**2.2)
    assert float(given_picture(image, "here")[0].mean()) > 229 / 255


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"masks": {"cat": (None,)}}, r"masks: no concept 'cat'"),
        ({"masks": [MASK]}, "masks is a list: give concept -> a mask"),
        ({"masks": {"s": ("x.png",)}}, r"masks\['s'\]\[0\] is 'x.png': give a tensor"),
        (
            {"images": Image.fromarray(LEVELS)},
            "images is a Image: give a tuple, an entry for each image",
        ),
        ({"images": (LEVELS.astype(object),)}, r"images\[0\] is an array of object"),
        ({"images": (MEANT.to("meta"),)}, "is a tensor without values"),
        ({"images": (np.ma.masked_less(LEVELS, 9),)}, "with values masked out"),
        ({"files": (1,)}, r"files\[0\] is 1: give the name of a file"),
        ({"captions": ("a\0b",)}, r"captions\[0\] holds a character of 0"),
        ({"concepts": ("dog",)}, "'dog' is no Concept"),
        ({"concepts": (Concept("dog", "<a b>", "dog"),)}, "give one word without spaces"),
        (
            {"extra": ({"boxes": [[0, 0, 20, 9]]},)},
            r"extra\[0\]: boxes\[0\] is .*: divide pixels by",
        ),
        ({"extra": ({"boxes": [[0.5, 0, 0.2, 1]]},)}, "left 0.5 not below right 0.2"),
        ({"extra": ({"boxes": [[0, 0, 1]]},)}, r"give \[left, top, right, bottom\] in parts"),
        ({"extra": ({"boxes": {"cat": [0, 0, 1, 1]}},)}, "boxes: no concept 'cat'"),
        ({"extra": ({"boxes": [{"phrase": "x"}]},)}, "has no box"),
        (
            {"extra": ({"points": [[0.1, float("nan")]]},)},
            r"points\[0\] is .*: give \[x, y\] in parts",
        ),
        ({"extra": ({"points": ["a"]},)}, r"points\[0\] is 'a': give \[x, y\]"),
        ({"extra": ({"concepts": ["cat"]},)}, "concepts: no concept 'cat'"),
        ({"extra": (3,)}, r"extra\[0\]: give an object with boxes or points"),
    ],
)
def test_what_is_said_of_a_picture_is_checked(changes: dict[str, Any], words: str) -> None:
    subject = replace(make_subject("s"), images=(MEANT,), captions=(), files=(), extra=())
    with pytest.raises(InputError, match=words):
        given_subject(replace(subject, **changes))


def test_boxes_and_points_by_concept_are_lists(backbone: Backbone) -> None:
    name = (subject := make_subject("s")).concept.name
    marks = {"boxes": {name: [0, 0, 0.5, 1]}, "points": {name: [[0.1, 1.0005]]}}
    read = given_subject(replace(subject, extra=(marks, *({},) * (len(subject.images) - 1))))
    assert read.extra[0] == {"boxes": [[0, 0, 0.5, 1]], "points": [[0.1, 1]]}
    for wrong in (None, 3, [None]):
        with pytest.raises(InputError, match="is no subject: load_subject"):
            fit(make_recipe([Probe()]), wrong, backbone)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 5000}, "steps=5000: give 1000 or fewer"),
        ({"scale": np.float32(3)}, r"as a plain float\(scale\)"),
        ({"seed": np.int64(3)}, r"as a plain int\(seed\)"),
        ({"size": 64}, "size=64: give height and width"),
        ({"size": (10**6, 8)}, "at most 16384 pixels a side"),
        ({"strengths": [1]}, "strengths=.*give a mapping"),
        ({"prompts": None}, r"prompts=.*give a list"),
        ({"prompts": ["a", 3]}, r"prompts=.*give a list"),
        ({"scheduler": ""}, "unknown scheduler ''"),
        ({"layout": {"boxes": []}}, "give a Layout"),
    ],
)
def test_a_drawing_refuses_what_it_cannot_mean(
    backbone: Backbone, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(PcsError, match=words):
        sample(None, backbone, **{"prompts": "a dog", **settings})
