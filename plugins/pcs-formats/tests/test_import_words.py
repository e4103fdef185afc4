"""Learned words in files of other tools: what diffusers makes of them, imported artifacts draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pcs_core import open_backbone
from pcs_core.errors import InputError
from pcs_core.storage import load
from pcs_diffusers.skeletons import sdxl
from pcs_diffusers.tiny import tiny_sdxl
from pcs_formats import unpickling
from pcs_formats.importing import import_file, inspect_file
from pcs_testing.inspect import opened as opened_once

CLOSE: Any = {"rtol": 1e-4, "atol": 1e-4}
PROMPTS = ("a photo of <toy>", "a red <toy> on the beach")


def row(width: int, vectors: int = 3, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(vectors, width, generator=rng)


def a1111(file: Path, rows: torch.Tensor) -> Path:
    """Write the layout that A1111's trainer pickles."""
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": rows},
            "name": "toy",
            "step": 900,
            "sd_checkpoint": None,
            "sd_checkpoint_name": None,
        },
        file,
    )
    return file


def written(layout: str, folder: Path) -> Path:
    rows, file = row(768), folder / "toy.safetensors"
    if layout == "a1111":
        return a1111(folder / "toy.pt", rows)
    if layout == "diffusers-bin":
        torch.save({"<toy>": rows}, folder / "learned_embeds.bin")
        return folder / "learned_embeds.bin"
    save_file({"emb_params" if layout == "kohya" else "<toy>": rows}, file)
    return file


@pytest.mark.parametrize(
    "layout",
    [
        "a1111",
        "kohya",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("diffusers", "diffusers-bin")),
    ],
)
def test_a_word_draws_as_diffusers_loading_it(
    layout: str,
    release: Path,
    opened: Any,
    pipeline_of: Any,
    evaluate_artifact: Any,
    run_pcs: Any,
    tmp_path: Path,
) -> None:
    file, out, backbone = written(layout, tmp_path), tmp_path / "imported", opened("sd")
    words = ["import", file, "--out", out, "--backbone", release]
    assert run_pcs(*words, *(() if layout.startswith("diffusers") else ("--token", "<toy>"))) == 0
    assert [c.token for c in load(out).concepts] == ["<toy>"]
    ours = evaluate_artifact(out, backbone, prompts=PROMPTS)
    pipe = pipeline_of(open_backbone(str(release)))
    pipe.load_textual_inversion(str(file), token="<toy>")
    with torch.no_grad():
        text = torch.cat([pipe.encode_prompt(p, "cpu", 1, False)[0] for p in PROMPTS])
        theirs = pipe.unet(latents_of(backbone), 400, encoder_hidden_states=text).sample
    torch.testing.assert_close(ours, theirs, **CLOSE)
    assert (theirs - evaluate_artifact(None, backbone, prompts=PROMPTS)).abs().max() > 1e-3


def latents_of(backbone: Any) -> torch.Tensor:
    """Return the latents that `evaluate` looks at."""
    rng = torch.Generator().manual_seed(7)
    noise = torch.randn(len(PROMPTS), *backbone.latent_shape, generator=rng)
    return backbone.sampler("ddim", 1).start(noise)


def test_two_encoders_read_what_diffusers_gives_them(pipeline_of: Any, tmp_path: Path) -> None:
    backbone = sdxl()
    parts = {"clip_l": row(768), "clip_g": row(1280, seed=1)}
    save_file(parts, tmp_path / "toy.safetensors")
    artifact = import_file(tmp_path / "toy.safetensors", backbone, noun="dog")
    assert [c.token for c in artifact.concepts] == ["<toy>"]
    with opened_once(artifact, backbone, PROMPTS) as (_, cond, _):
        ours, pooled = cond.text, cond.pooled
    pipe = pipeline_of(backbone)
    for part, number in (("clip_l", ""), ("clip_g", "_2")):
        pipe.load_textual_inversion(
            {"<toy>": parts[part]},
            token="<toy>",
            text_encoder=getattr(pipe, f"text_encoder{number}"),
            tokenizer=getattr(pipe, f"tokenizer{number}"),
        )
    said = [
        pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=False)
        for text in PROMPTS
    ]
    torch.testing.assert_close(ours, torch.cat([s[0] for s in said]), **CLOSE)
    torch.testing.assert_close(pooled, torch.cat([s[2] for s in said]), **CLOSE)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"clip_l": row(768), "clip_g": row(1280)}, "made for sdxl"),
        ({"emb_params": row(1024)}, r"made for sd \(2.x\)"),
        ({"emb_params": row(768, 65)}, "65 rows: at most 64"),
    ],
)
def test_words_of_another_base_are_refused(
    tensors: dict[str, torch.Tensor], words: str, opened: Any, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "toy.safetensors")
    with pytest.raises(InputError, match=words):
        import_file(tmp_path / "toy.safetensors", opened("sd"))


class Harmful:
    """What a pickle may hold: a call."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_pickle_that_calls_something_is_refused(
    run_pcs: Any, tmp_path: Path, capsys: Any
) -> None:
    mark = tmp_path / "mark"
    torch.save({"<toy>": row(768), "more": Harmful(mark)}, tmp_path / "toy.bin")
    file, out = tmp_path / "toy.bin", tmp_path / "o"
    assert run_pcs("import", file, "--out", out, "--backbone", "tiny") == 2
    said = capsys.readouterr().err
    assert "holds more than tensors, numbers and words" in said
    assert len(said.strip().splitlines()) == 1
    assert not mark.exists()
    assert not (tmp_path / "o").exists()


def test_inspect_says_what_a_word_is(tmp_path: Path, run_pcs: Any, capsys: Any) -> None:
    save_file({"emb_params": row(768)}, tmp_path / "toy.safetensors", {"note": "of mine"})
    assert run_pcs("inspect", tmp_path / "toy.safetensors") == 0
    said = capsys.readouterr().out
    for words in ("importer word", "A1111", "base: sd (1.x)", "1 of 1 keys match", "note: of mine"):
        assert words in said


@pytest.mark.slow
def test_inspect_says_what_a_pickled_word_is(tmp_path: Path) -> None:
    (loader,) = inspect_file(a1111(tmp_path / "toy.pt", row(768)))["loaders"]
    assert loader["facts"]["step"] == 900
    assert "A1111" in loader["kind"]


def test_the_word_of_a_lora_s_bundle_comes_along(tmp_path: Path) -> None:
    backbone = tiny_sdxl()
    layer = "lora_unet_output_blocks_0_1_proj_in"
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(2, 32),
        f"{layer}.lora_up.weight": torch.ones(32, 2),
        "bundle_emb.toy.clip_l": row(32, 2),
        "bundle_emb.toy.clip_g": row(48, 2),
    }
    shape = backbone.denoiser.up_blocks[0].attentions[0].proj_in.weight.shape
    tensors[f"{layer}.lora_down.weight"] = torch.ones(2, *shape[1:])
    tensors[f"{layer}.lora_up.weight"] = torch.ones(shape[0], 2, *[1] * (len(shape) - 2))
    save_file(tensors, tmp_path / "both.safetensors")
    artifact = import_file(tmp_path / "both.safetensors", backbone)
    assert [c.token for c in artifact.concepts] == ["<toy>"]
    assert artifact.tensors["tokens.learnable/<toy>/rows"].shape == (2, 80)
    (loader,) = inspect_file(tmp_path / "both.safetensors", backbone)["loaders"]
    assert loader["matched"] == 4


def test_tables_that_share_theirs_are_read_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle of a kilobyte holds tables of tables that are one and the same: trillions of values."""
    monkeypatch.setattr(unpickling, "MOST", 1000)
    for inner in ({"x": 1}, {}):
        table: dict[str, Any] = inner
        for _ in range(7):
            table = {str(number): table for number in range(50)}
        torch.save(table, tmp_path / "shared.pt")
        with pytest.raises(ValueError, match="more than 1000 values"):
            unpickling.convert(str(tmp_path / "shared.pt"), str(tmp_path / "out"))
