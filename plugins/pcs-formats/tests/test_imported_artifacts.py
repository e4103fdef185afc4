"""An imported file is an artifact like any other: commands draw with it, add others to it, export it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcs_diffusers.tiny import tiny
from pcs_testing import pixels

PATH = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA with a trigger word, and a LoHa, as other tools write them."""
    folder, rng = tmp_path_factory.mktemp("files"), torch.Generator().manual_seed(0)
    out, into = tiny().denoiser.get_submodule(PATH).weight.shape
    name = f"lora_unet_{PATH.replace('.', '_')}"

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    lora = {f"{name}.lora_down.weight": drawn(2, into), f"{name}.lora_up.weight": drawn(out, 2)}
    tags = {"ss_tag_frequency": json.dumps({"5_dog": {"sks dog": 5}})}
    save_file({**lora, f"{name}.alpha": torch.tensor(1.0)}, folder / "lora.safetensors", tags)
    shapes = {"w1_a": (out, 2), "w1_b": (2, into), "w2_a": (out, 2), "w2_b": (2, into)}
    loha = {f"{name}.hada_{part}": drawn(*shape) for part, shape in shapes.items()}
    save_file({**loha, f"{name}.alpha": torch.tensor(1.0)}, folder / "loha.safetensors")
    return folder


def picture(folder: Path) -> bytes:
    return pixels(folder / "000.png")


def test_it_is_drawn_weighed_added_and_exported(
    files: Path, run_pcs: Any, tmp_path: Path, capsys: Any
) -> None:
    base = ("--backbone", "tiny")
    for kind in ("lora", "loha"):
        file = files / f"{kind}.safetensors"
        assert run_pcs("import", file, "--out", tmp_path / kind, *base) == 0
    drawing = ("a red toy", "-n", 1, "--steps", 2)
    drawn = {}
    for name, words in {
        "lora": ("lora",),
        "half": ("lora", "--strength", "lora=0.5"),
        "none": ("lora", "--strength", "lora=0"),
        "both": ("lora", "--add", tmp_path / "loha"),
        "off": ("lora", "--add", tmp_path / "loha", "--strength", "loha=0"),
    }.items():
        out = tmp_path / f"drawn-{name}"
        assert run_pcs("sample", tmp_path / words[0], *drawing, *words[1:], "--out", out) == 0
        drawn[name] = picture(out)
    assert run_pcs("sample", "--base", "tiny", *drawing, "--out", tmp_path / "drawn-base") == 0
    assert drawn["none"] == picture(tmp_path / "drawn-base")
    assert drawn["off"] == drawn["lora"]
    assert len({drawn["lora"], drawn["half"], drawn["none"], drawn["both"]}) == 4
    for kind in ("lora", "loha"):
        out = tmp_path / f"out-{kind}"
        assert run_pcs("export", tmp_path / kind, "--to", "kohya", "--out", out) == 0
        written, given = (
            load_file(p) for p in (out / "lora.safetensors", files / f"{kind}.safetensors")
        )
        assert written.keys() == given.keys()
        assert all(torch.equal(written[k], given[k]) for k in given)
    assert run_pcs("export", tmp_path / "loha", "--to", "diffusers", "--out", tmp_path / "no") == 2
    assert "cannot be written for diffusers" in capsys.readouterr().err


def test_a_token_stands_for_the_trigger_word(
    files: Path, run_pcs: Any, tmp_path: Path, capsys: Any
) -> None:
    words = ("--token", "<dog>", "--out", tmp_path / "dog", "--backbone", "tiny")
    assert run_pcs("import", files / "lora.safetensors", *words) == 0
    plain = ("--out", tmp_path / "plain", "--backbone", "tiny")
    assert run_pcs("import", files / "lora.safetensors", *plain) == 0
    drawing = ("-n", 1, "--steps", 2)
    for folder, prompt in (("dog", "a photo of <dog>"), ("plain", "a photo of sks dog")):
        out = tmp_path / f"drawn-{folder}"
        assert run_pcs("sample", tmp_path / folder, prompt, *drawing, "--out", out) == 0
    assert picture(tmp_path / "drawn-dog") == picture(tmp_path / "drawn-plain")
    words = ("--token", "<dog>", "--out", tmp_path / "x", "--backbone", "tiny")
    assert run_pcs("import", files / "loha.safetensors", *words) == 2
    assert "names no trigger word" in capsys.readouterr().err
