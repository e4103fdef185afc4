"""Whatever ranks, types, alphas and layers a LoRA's file has: all of it is used, or a key is named."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pcs_core.errors import InputError
from pcs_diffusers.tiny import tiny
from pcs_formats.importing import import_file

ENDINGS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "peft": (".lora_A.weight", ".lora_B.weight"),
    "old": (".lora.down.weight", ".lora.up.weight"),
}
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def backbone() -> Any:
    return tiny()


@cache
def layers() -> dict[str, tuple[int, ...]]:
    sites = [s for s in backbone().sites if s.part == "denoiser" and s.kind in ("linear", "conv")]
    return {site.name: site.shape for site in sites[::7]}


@dataclass(frozen=True)
class Layer:
    rank: int
    alpha: float | None
    dtype: torch.dtype


DRAWN = st.builds(
    Layer,
    rank=st.integers(1, 70),
    alpha=st.none() | st.floats(0.125, 64, width=16),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)


def file_of(spelling: str, drawn: Mapping[str, Layer]) -> dict[str, torch.Tensor]:
    rng, tensors = torch.Generator().manual_seed(0), dict[str, torch.Tensor]()
    down, up = ENDINGS[spelling]
    for path, layer in drawn.items():
        shape = layers()[path]
        name = f"lora_unet_{path.replace('.', '_')}" if spelling == "kohya" else f"unet.{path}"
        ones = (1,) * (len(shape) - 2)
        for key, size in (
            (name + down, (layer.rank, *shape[1:])),
            (name + up, (shape[0], layer.rank, *ones)),
        ):
            tensors[key] = torch.randn(size, generator=rng).to(layer.dtype)
        if layer.alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(layer.alpha)
    return tensors


def imported(tensors: Mapping[str, torch.Tensor]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drawn.safetensors"
        save_file(dict(tensors), file)
        return import_file(file, backbone())


def delta(artifact: Any, path: str) -> torch.Tensor:
    """Return the change of one layer's weight, flat [out in*k*k], from the artifact alone."""
    parts = {
        k.rpartition("/")[2]: t for k, t in artifact.tensors.items() if k.split("/")[1] == path
    }
    if "A" in parts:
        use = next(k.split("/")[0] for k in artifact.tensors if k.split("/")[1] == path)
        technique = next(u.technique for u in artifact.recipe.uses if u.name == use)
        return technique.alpha / technique.rank * parts["B"] @ parts["A"]
    return parts["scale"] * parts["up"].flatten(1) @ parts["down"].flatten(1)


@FEW
@given(data=st.data(), spelling=st.sampled_from(sorted(ENDINGS)))
def test_all_of_it_is_used(data: st.DataObject, spelling: str) -> None:
    paths = data.draw(
        st.lists(st.sampled_from(sorted(layers())), min_size=1, max_size=5, unique=True)
    )
    drawn = {path: data.draw(DRAWN) for path in paths}
    tensors = file_of(spelling, drawn)
    artifact = imported(tensors)
    for path, layer in drawn.items():
        name = next(k for k in tensors if path in k or path.replace(".", "_") in k).rpartition(
            ".lora"
        )[0]
        down, up = (tensors[name + e].float().flatten(1) for e in ENDINGS[spelling])
        scale = 1.0 if layer.alpha is None else layer.alpha / layer.rank
        torch.testing.assert_close(delta(artifact, path), scale * up @ down)
    assert {k.split("/")[1] for k in artifact.tensors} == set(drawn)


@FEW
@given(data=st.data(), spelling=st.sampled_from(sorted(ENDINGS)))
def test_a_missing_or_surplus_key_is_named(data: st.DataObject, spelling: str) -> None:
    paths = data.draw(
        st.lists(st.sampled_from(sorted(layers())), min_size=2, max_size=4, unique=True)
    )
    tensors = file_of(spelling, {path: Layer(2, 1.0, torch.float32) for path in paths})
    key = data.draw(st.sampled_from(sorted(k for k in tensors if not k.endswith(".alpha"))))
    if data.draw(st.booleans()):
        del tensors[key]
        stem = key.partition(".lora")[0]
    else:
        stem = key.partition(".lora")[0]
        tensors[f"{stem}.odd.weight"] = torch.ones(1)
    with pytest.raises(InputError) as refused:
        imported(tensors)
    assert stem in str(refused.value)
