"""What earlier versions wrote is read, drawn and gone on with unchanged."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from pcs_core import fit, load, open_backbone, sample, save

HERE = Path(__file__).resolve().parent
CLOSE = 1e-5
"""Largest difference of a pixel in [0, 1] on the machine that wrote the files; others round differently."""

WRITTEN_WITH = "AVX512"
"""Instructions of the processor that wrote the files."""
ROUNDED = {"layout-control": 5e-3}
"""Drawings that follow gradients: the same code moves them by 8e-4 with AVX2, by 1.1e-3 without either."""


def _make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_make", HERE / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _make()
ARTIFACTS = sorted(p.name for p in make.ARTIFACTS.iterdir() if p.is_dir())
FITS = sorted(load_file(make.FITS))


@pytest.mark.parametrize("system", ARTIFACTS)
def test_an_artifact_is_read_and_draws_the_same(system: str, tmp_path: Path) -> None:
    artifact = load(make.ARTIFACTS / system)
    backbone = open_backbone(artifact.backbone.id)
    layout = make.layout_for(artifact.recipe)
    drawn = sample(artifact, backbone, make.PROMPT, seed=1, layout=layout)
    kept = load_file(make.ARTIFACTS / "pictures.safetensors")[system]
    assert float((drawn - kept).abs().max()) <= CLOSE
    save(artifact, tmp_path / "again")
    again = load(tmp_path / "again")
    assert set(again.tensors) == set(artifact.tensors)
    assert all(torch.equal(again.tensors[k], v) for k, v in artifact.tensors.items())


def test_an_interrupted_fit_goes_on(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(make.CHECKPOINT / "work", work)
    begun = []
    made = fit(
        make.checkpoint_recipe(),
        make.thing(),
        open_backbone("tiny"),
        seed=3,
        work=work,
        resume=True,
        watch=[lambda progress: begun.append(progress.phase)],
    )[0]
    assert set(begun) == {"both"}  # the first phase was over
    for name, value in load_file(make.CHECKPOINT / "finished.safetensors").items():
        assert float((made.tensors[name] - value).abs().max()) <= CLOSE, name


@pytest.mark.slow
@pytest.mark.parametrize("system", FITS)
def test_a_brief_fit_on_mini_draws_the_same(system: str) -> None:
    kept = load_file(make.FITS)[system]
    ((_, drawn),) = make.brief_fits([system])
    here = torch.backends.cpu.get_cpu_capability()
    close = CLOSE if here == WRITTEN_WITH else ROUNDED.get(system, CLOSE)
    assert float((drawn - kept).abs().max()) <= close
