"""Compiled kernels draw the same pictures, and another LoRA compiles nothing."""

from __future__ import annotations

import shutil

import pytest
import torch

from pcs_core import fit, load_recipe, open_engine
from pcs_core.backbone import Backbone

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"
)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("regions", ["blocks", "network"])
def test_inductor(regions: str, backbone: Backbone, subject, trajectory, apart) -> None:
    settings = ["weights.lora.rank=2", "tune.steps=1", "tune.lr=1e-2"]
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=settings)
    artifacts = [fit(recipe, subject(s), backbone, seed=s)[0] for s in (1, 2)]
    engine = open_engine(backbone, "compile", regions=regions, rank=4)
    drawn = [trajectory(artifacts[0], engine)]
    compiled = engine.engine["compiled"]
    drawn.append(trajectory(artifacts[1], engine))
    assert engine.engine["compiled"] == compiled > 0
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, backbone)) <= 1e-5
    assert apart(*drawn) > 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_graphs_see_the_next_artifact(subject, trajectory, apart) -> None:
    from pcs_core import open_backbone
    from pcs_diffusers.tiny import build  # a backbone on the device

    plain = build(id="tiny", device="cuda")
    settings = ["weights.lora.rank=2", "tune.steps=1", "tune.lr=1e-2"]
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=settings)
    artifacts = [fit(recipe, subject(s), open_backbone("tiny"), seed=s)[0] for s in (1, 2)]
    engine = open_engine(plain, "compile", rank=4, graphs=True)
    drawn = [trajectory(artifact, engine) for artifact in artifacts]
    recorded = engine.engine["cuda_graphs"]
    again = trajectory(artifacts[0], engine)
    assert engine.engine["cuda_graphs"] == recorded == 1
    assert apart(again, drawn[0]) <= 1e-6
    for artifact, actual in zip(artifacts, drawn, strict=True):
        assert apart(actual, trajectory(artifact, plain)) <= 1e-4
    assert apart(*drawn) > 1e-3
