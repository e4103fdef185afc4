"""What Python callers give is read as the same picture whatever its form, or refused with its place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pcs_core import fit, load_recipe, open_backbone, sample
from pcs_core.backbone import Backbone
from pcs_core.data import Concept, Recipe, Subject
from pcs_core.errors import InputError, PcsError
from pcs_engine.given import SLACK, given_mask, given_picture

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.just((1, 2)),
)


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return open_backbone("tiny")


@pytest.fixture(scope="module")
def brief() -> Recipe:
    return load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=1"])


@given(sides=SIDES, seed=st.integers(0, 99))
def test_every_form_is_one_picture(sides: tuple[int, int], seed: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 256, (*sides, 3), np.uint8)
    expected = torch.from_numpy(levels).permute(2, 0, 1).float() / 255
    forms: dict[str, Any] = {
        "uint8 array": levels,
        "array of floats": (levels / 255).astype(np.float32),
        "array of doubles": levels / 255,
        "PIL": Image.fromarray(levels),
        "uint8 tensor": torch.from_numpy(levels).permute(2, 0, 1),
        "tensor": expected,
        "doubles": expected.double(),
        "strided": expected.flip(-1).flip(-1).transpose(1, 2).contiguous().transpose(1, 2),
        "read-only array": np.broadcast_to(levels, levels.shape),
    }
    for name, form in forms.items():
        read = given_picture(form, "images[0]")
        assert read.dtype == torch.float32, name
        assert float((read - expected).abs().max()) < 1e-6, name
    half = given_picture(expected.half(), "images[0]")
    assert half.dtype == torch.float32
    assert float((half - expected).abs().max()) < 1e-3


@given(
    shape=st.lists(st.integers(0, 5), max_size=5),
    dtype=st.sampled_from(DTYPES),
    low=st.floats(-300, 300),
    span=st.floats(0, 600),
    odd=st.none() | st.sampled_from((math.nan, math.inf, -math.inf)),
    as_array=st.booleans(),
)
def test_any_tensor_is_a_picture_or_refused_with_its_place(
    shape: list[int], dtype: torch.dtype, low: float, span: float, odd: float | None, as_array: bool
) -> None:
    tensor = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * span + low).to(dtype)
    if odd is not None and tensor.numel() and dtype.is_floating_point:
        tensor.view(-1)[0] = odd
    image: Any = tensor
    if as_array and dtype != torch.bfloat16:
        image = tensor.numpy()
    try:
        read = given_picture(image, "subject 'rex': images[3]")
    except InputError as error:
        assert "subject 'rex': images[3]" in str(error)
        return
    assert read.shape[0] == 3
    assert read.dim() in (3, 4)
    assert read.dtype == torch.float32
    assert bool(read.isfinite().all())
    assert float(read.min()) >= -SLACK
    assert float(read.max()) <= 1 + SLACK


@given(
    image=st.none() | st.text(max_size=4) | st.integers() | st.binary(max_size=4) | st.just([[0.0]])
)
def test_what_is_no_picture_is_refused(image: Any) -> None:
    with pytest.raises(InputError, match=r"images\[0\]"):
        given_picture(image, "images[0]")


@given(
    shape=st.lists(st.integers(0, 9), max_size=4),
    values=st.sampled_from(("ones", "zeros", "255", "-1", "nan", "bool")),
)
def test_any_mask_is_a_region_or_refused(shape: list[int], values: str) -> None:
    image = torch.rand(3, 8, 6)
    mask = {
        "ones": torch.ones,
        "zeros": torch.zeros,
        "255": lambda s: torch.full(s, 255.0),
        "-1": lambda s: torch.full(s, -1.0),
        "nan": lambda s: torch.full(s, math.nan),
        "bool": lambda s: torch.ones(s, dtype=torch.bool),
    }[values](shape)
    try:
        read = given_mask(mask, image, "masks['dog'][0]")
    except InputError as error:
        assert "masks['dog'][0]" in str(error)
        assert values in ("255", "-1", "nan") or shape not in ([8, 6], [1, 8, 6])
        return
    assert read is not None
    assert tuple(read.shape) == (1, 8, 6)
    assert values in ("ones", "zeros", "bool")


@given(
    name=st.sampled_from(("count", "steps", "scale", "seed", "strengths", "scheduler", "negative")),
    value=NUMBERS,
)
def test_any_number_draws_or_is_refused(name: str, value: Any, tiny: Backbone) -> None:
    """No traceback of a library for a count of zero, NaN, text, or a number of seventy bits."""
    options: dict[str, Any] = {"count": 1, "steps": 1, "seed": 0}
    if name in ("count", "steps") and isinstance(value, int) and value > 4:
        value = 4  # drawing is what it asks for
    options[name] = {"dog": value} if name == "strengths" else value
    try:
        pictures = sample(None, tiny, "a dog", **options)
    except PcsError as error:
        # a text is shown as it stands, whoever gave it
        assert name.rstrip("s") in str(error) or name == "negative", error
        return
    assert bool(pictures.isfinite().all())
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1


@given(
    images=st.lists(st.sampled_from(("good", "wrong", "none")), max_size=3),
    captions=st.lists(st.none() | st.text(max_size=6) | st.integers(), max_size=4),
    seed=NUMBERS,
)
def test_any_subject_is_fitted_or_refused(
    images: list[str], captions: list[Any], seed: Any, tiny: Backbone, brief: Recipe
) -> None:
    forms: dict[str, Any] = {
        "good": torch.rand(3, 32, 32),
        "wrong": torch.rand(3, 32, 32) * 255,
        "none": None,
    }
    subject = Subject(
        "rex",
        (Concept(name="dog", token="<dog>", noun="dog"),),
        tuple(forms[name] for name in images),
        tuple(captions),
    )
    try:
        artifact = fit(brief, subject, tiny, seed=seed)[0]
    except InputError as error:
        assert str(error)
        return
    assert images
    assert set(images) == {"good"}
    assert all(bool(t.isfinite().all()) for t in artifact.tensors.values())
