"""Opening folders in SDXL and SD 3 layout, and refusing those that are not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core.errors import CapabilityError, InputError
from pcs_diffusers.stable_diffusion_3 import StableDiffusion3
from pcs_diffusers.stable_diffusion_xl import StableDiffusionXL
from pcs_diffusers.tiny import tiny, tiny_sd3, tiny_sdxl
from pcs_engine import open_backbone


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, write_folder: Callable[[Any, Path], Path]
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    makers = {"sdxl": tiny_sdxl, "sd3": tiny_sd3}
    return {name: write_folder(make(), root / name) for name, make in makers.items()}


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        open_backbone(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_folder_is_the_same_backbone(folders: dict[str, Path]) -> None:
    kinds = {"sdxl": (StableDiffusionXL, tiny_sdxl()), "sd3": (StableDiffusion3, tiny_sd3())}
    for name, (kind, before) in kinds.items():
        opened: Any = open_backbone(folders[name])
        assert isinstance(opened, kind)
        assert opened.card.family == name
        assert opened.latent_shape == before.latent_shape
        for part, module in before.parts.items():
            saved = opened.parts[part].state_dict()
            assert all(torch.equal(t, saved[n]) for n, t in module.state_dict().items())
        ids = torch.tensor([[*before.tokenizer.encode("a dog")]])
        assert ids.tolist() == [opened.tokenizer.encode("a dog")]
        assert open_backbone(folders[name]).card.hash == opened.card.hash


def test_the_noise_schedule_is_part_of_what_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "copy"))
    before = open_backbone(folder).card.hash
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "shift": 1.0}))
    opened: Any = open_backbone(folder)
    assert opened.card.hash != before
    assert opened.process.shift == 1.0
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_dynamic_shifting": True}))
    with pytest.raises(CapabilityError, match="use_dynamic_shifting"):
        open_backbone(folder)


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2", "vae", "scheduler"])
def test_a_missing_part_is_named(
    folders: dict[str, Path], name: str, part: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / "copy"))
    shutil.rmtree(folder / part)
    message = refused(folder)
    assert str(folder) in message
    assert part in message


def test_sd3_opens_without_t5(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd3"], tmp_path / "copy"))
    shutil.rmtree(folder / "text_encoder_3")
    opened: Any = open_backbone(folder)
    assert opened.text_encoder.t5 is None
    assert opened.tokenizer.beside == ()
    text, pooled = opened.encode_ids(opened._blank())
    assert text.shape == (1, 24 + 256, 96)
    assert not text[:, 24:].any()
    assert pooled.shape == (1, 80)


def test_parts_of_two_models_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, cause in (("sdxl", "text encoders give 64"), ("sd3", "pooled text is 64")):
        folder = Path(shutil.copytree(folders[name], tmp_path / name))
        shutil.rmtree(folder / "text_encoder_2")
        shutil.copytree(folder / "text_encoder", folder / "text_encoder_2")
        config = json.loads((folder / "text_encoder_2" / "config.json").read_text())
        if name == "sd3":
            assert cause in refused(folder)
        else:  # the first encoder has no projection; older transformers name its other weights otherwise, too
            said = refused(folder)
            assert "text_encoder_2' lack 'text_" in said
        assert config["hidden_size"] == 32


def test_tokenizers_of_two_vocabularies_are_refused(folders: dict[str, Path]) -> None:
    from pcs_diffusers.text_encoders import vocabulary_misfits
    from pcs_diffusers.tokenizers import ClipTokenizer

    backbone = tiny_sdxl()
    first = backbone.embedding.reads[0][1]  # type: ignore[index]
    other = ClipTokenizer(tiny().tokenizer.inner)
    assert not list(vocabulary_misfits(backbone.text_encoder, [first, other]))
    other.length += 1
    misfits = list(vocabulary_misfits(backbone.text_encoder, [first, other]))
    assert misfits == ["tokenizer reads 24 tokens, tokenizer_2 25"]


def test_sizes_are_those_of_the_reference_where_a_fit_says_so() -> None:
    from pcs_core.data import Conditioning
    from pcs_diffusers.stable_diffusion_xl import CORNER, SIZE

    backbone = tiny_sdxl()
    cond = Conditioning(text=torch.zeros(2, 3, 4))
    assert backbone.sizes(cond, 2).tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    extra = {SIZE: torch.tensor([[90, 60], [32, 32]]), CORNER: torch.tensor([[8, 0], [0, 0]])}
    said = backbone.sizes(cond.with_(extra=extra), 2).tolist()
    assert said == [[90, 60, 8, 0, 32, 32], [32, 32, 0, 0, 32, 32]]


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_a_control_network_of_sdxl_starts_at_no_effect_and_learns(width: float) -> None:
    backbone = tiny_sdxl()
    network = backbone.control_network(3, width)
    given = (torch.ones(2, 4, 16, 16), torch.tensor([400, 20]), torch.ones(2, 5, 80))
    down, middle = network(*given, torch.rand(2, 3, 32, 32))
    assert not any(t.any() for t in (*down, middle))
    (sum(t.sum() for t in down) + middle.sum()).backward()
    assert any(p.grad is not None and p.grad.any() for p in network.parameters())
    plain = backbone.denoiser(
        *(given[0], given[1], given[2]),
        added_cond_kwargs={"text_embeds": torch.zeros(2, 48), "time_ids": torch.zeros(2, 6)},
        down_block_additional_residuals=tuple(down),
        mid_block_additional_residual=middle,
    ).sample
    assert plain.shape == (2, 4, 16, 16)
