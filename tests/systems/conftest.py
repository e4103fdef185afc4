"""Skeletons of released networks, and frozen feature models of real widths for them."""

from __future__ import annotations

import ctypes.util
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pcs_core import load_recipe
from pcs_core.backbone import Backbone
from pcs_testing.whole_run import fewer_settings, make_references, whole_run


@pytest.fixture(scope="module")
def feature_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What users name by environment: CLIP towers, and a face recogniser with vectors of ArcFace's width."""
    from pcs_diffusers import vision
    from pcs_diffusers.clip_both import build_clip, clip_both
    from pcs_diffusers.skeletons import vision_tower
    from pcs_encoders.recogniser import face_id

    opened = (vision.clip_image, vision.clip_image_huge, clip_both, face_id)
    place = tmp_path_factory.mktemp("features")
    towers = {"PCS_CLIP_IMAGE": (1024, 768), "PCS_CLIP_IMAGE_H14": (1280, 1024)}
    with pytest.MonkeyPatch.context() as patch:
        for variable, (width, projected) in towers.items():
            vision_tower(width=width, projected=projected).save_pretrained(place / variable)
            patch.setenv(variable, str(place / variable))
        for part in build_clip():
            part.save_pretrained(place / "clip")
        patch.setenv("PCS_CLIP", str(place / "clip"))
        patch.setenv("PCS_FACE_ID", str(write_recogniser(place / "face.onnx")))
        for once in opened:
            once.cache_clear()
        yield
    for once in opened:
        once.cache_clear()


def write_recogniser(path: Path) -> Path:
    """Write a random graph [n 3 112 112] -> [n 512], in ArcFace's layout."""
    import onnx

    rng = torch.Generator().manual_seed(1)
    shapes = {"patches": (8, 3, 16, 16), "head": (8 * 49, 512)}
    constants = [
        onnx.numpy_helper.from_array((0.1 * torch.randn(shape, generator=rng)).numpy(), name)
        for name, shape in shapes.items()
    ]
    node, info, kind = (
        onnx.helper.make_node,
        onnx.helper.make_tensor_value_info,
        onnx.TensorProto.FLOAT,
    )
    nodes = [
        node("Conv", ["data", "patches"], ["cells"], strides=[16, 16]),
        node("Flatten", ["cells"], ["flat"]),
        node("MatMul", ["flat", "head"], ["out"]),
    ]
    given = [info("data", kind, ["n", 3, 112, 112])]
    graph = onnx.helper.make_graph(nodes, "face", given, [info("out", kind, ["n", 512])], constants)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path


@pytest.fixture(scope="module")
def skeletons() -> Iterator[Callable[[str], Backbone]]:
    """Return the skeleton of a family, built once a module; its memory is given back at the end."""
    from pcs_diffusers.skeletons import SKELETONS

    built: dict[str, Backbone] = {}

    def open_one(family: str) -> Backbone:
        if family not in built:
            built.clear()
            built[family] = SKELETONS[family]()
        return built[family]

    yield open_one
    built.clear()
    give_memory_back()


def give_memory_back() -> None:
    """Return to the system what is free: the allocator keeps it, and two workers have one memory."""
    gc.collect()
    library = ctypes.util.find_library("c")
    trim = getattr(ctypes.CDLL(library), "malloc_trim", None) if library else None
    if trim is not None:  # glibc's
        trim(0)


@pytest.fixture
def runs_on_skeleton(
    feature_models: None, skeletons: Callable[[str], Backbone]
) -> Callable[[str, str], None]:
    """Return what takes a system through fit and drawing on the skeleton of a family."""

    def run(system: str, family: str) -> None:
        backbone = skeletons(family)
        less = fewer_settings(load_recipe(system, backbone=backbone))
        recipe = load_recipe(system, backbone=backbone, overrides=less)
        clips = len(backbone.latent_shape) == 4
        artifact, picture = whole_run(recipe, backbone, make_references(clips=clips))
        frames = (backbone.latent_shape[1],) if clips else ()
        assert picture.shape == (1, 3, *frames, *backbone.card.size)
        assert bool(torch.isfinite(picture).all())
        assert all(bool(torch.isfinite(t).all()) for t in artifact.tensors.values())
        if any(not phase.pretrain for phase in recipe.phases):
            assert artifact.tensors
        del artifact, picture
        give_memory_back()

    return run


@pytest.fixture
def config_folder(tmp_path: Path) -> Callable[[str], Path]:
    """Return what writes a folder of a family that holds configurations and no weights."""

    def write(family: str) -> Path:
        from pcs_diffusers.skeletons import SKELETONS

        part = "unet" if family in ("sd", "sdxl", "video", "animatediff") else "transformer"
        SKELETONS[family]().denoiser.save_config(tmp_path / family / part)
        if family == "flux-kontext":
            index = tmp_path / family / "model_index.json"
            index.write_text('{"_class_name": "FluxKontextPipeline"}')
        return tmp_path / family

    return write
