"""References as tokens: what is extracted, which layers have an update, and the systems on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_cli.main import main
from pcs_core import fit_image, open_backbone
from pcs_core.catalogue import catalogue
from pcs_core.storage import load
from pcs_folders.pictures import write_png
from pcs_testing import make_recipe, make_subject, pixels
from pcs_testing.fixtures import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subjects") / "thing"
    path.mkdir()
    rng = torch.Generator().manual_seed(0)
    for i in range(2):
        write_png(torch.rand(3, 40, 36 + 8 * i, generator=rng), path / f"{i}.png")
        (path / f"{i}.txt").write_text("a photo of a dog")
    return path


@pytest.fixture
def pcs(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: object) -> str:
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        assert code == 0, err
        return out

    return run


def technique(**settings: Any) -> Any:
    return catalogue().get("techniques", "fusion.in_context").from_settings(settings)


def test_the_feature_is_the_latents_of_the_first_pictures() -> None:
    backbone: Any = open_backbone("tiny-flux")
    subject = make_subject()
    _, features = build(make_recipe([technique(references=2)]), [subject], backbone)
    shown = torch.stack([fit_image(image, (32, 32)) for image in subject.images[:2]])
    with torch.no_grad():
        expected, _ = backbone.moments(shown)
    torch.testing.assert_close(features.tensors["reference"][0], expected)
    assert features.keep == ("reference",)


def test_updates_stand_where_tokens_pass_and_something_reads_them() -> None:
    backbone: Any = open_backbone("tiny-flux")
    fusion, _ = build(make_recipe([technique(rank=2)]), [make_subject()], backbone)
    names = {edit.site.name for edit in fusion.edits if edit.group}
    assert not any("context" in name or "add_" in name for name in names)
    assert {
        "x_embedder",
        "transformer_blocks.0.norm1.linear",
        "transformer_blocks.1.attn.to_out.0",
    } < names
    last = {
        n.removeprefix("single_transformer_blocks.1.")
        for n in names
        if n.startswith("single_transformer_blocks.1.")
    }
    assert last == {"attn.to_k", "attn.to_v", "norm.linear"}
    assert "single_transformer_blocks.0.proj_out" in names
    assert "transformer_blocks.1.ff.net.2" in names


def drawn(pcs: Callable[..., str], what: Path, out: Path, *more: object) -> bytes:
    words = ("a photo of <thing> on the beach", "--steps", 2, "--seed", 1, "--device", "cpu")
    pcs("sample", what, *words, *more, "--out", out)
    return pixels(out / "000.png")


def test_kontext_reads_the_references_and_fits_nothing(
    folder: Path, pcs: Callable[..., str], tmp_path: Path
) -> None:
    made, words = tmp_path / "artifact", ("--noun", "dog", "--token", "<thing>", "--device", "cpu")
    pcs("fit", "kontext", folder, *words, "--backbone", "tiny-kontext", "--out", made)
    artifact = load(made)
    assert not artifact.tensors
    assert artifact.features["reference"].shape == (1, 16, 16, 16)
    pictures = [drawn(pcs, made, tmp_path / f"{i}", "--size", "48x32") for i in range(2)]
    assert pictures[0] == pictures[1]
    plain = ("sample", "--base", "tiny-kontext", "a photo of dog on the beach")
    pcs(
        *plain,
        "--steps",
        2,
        "--seed",
        1,
        "--size",
        "48x32",
        "--device",
        "cpu",
        "--out",
        tmp_path / "p",
    )
    assert pixels(tmp_path / "p" / "000.png") != pictures[0]


def test_an_adapter_is_pre_trained_and_given_a_reference(
    folder: Path, pcs: Callable[..., str], tmp_path: Path
) -> None:
    on = ("--backbone", "tiny-flux", "--device", "cpu")
    adapter, made = tmp_path / "adapter", tmp_path / "artifact"
    less = ("--set", "adapter.steps=2", "--set", "fusion.in_context.rank=2")
    pcs("pretrain", "ominicontrol", "--data", folder, *on, *less, "--out", adapter)
    words = ("--noun", "dog", "--token", "<thing>", "--adapter", adapter, "--no-preview")
    pcs("fit", "ominicontrol", folder, *on, *words, *less[2:], "--out", made)
    first = drawn(pcs, made, tmp_path / "first")
    assert (
        json.loads((tmp_path / "first" / "sample.json").read_text())["backbone"]["id"]
        == "tiny-flux"
    )
    assert drawn(pcs, made, tmp_path / "again") == first


@pytest.mark.parametrize(
    ("system", "backbone", "why"),
    [
        ("kontext", "tiny-flux", "dev and schnell were not"),
        ("ominicontrol", "tiny-sd3", "a table of the picture's places"),
    ],
)
def test_elsewhere_it_is_refused(
    system: str, backbone: str, why: str, folder: Path, tmp_path: Path, capfd: Any
) -> None:
    words = ["--noun", "dog", "--token", "<thing>", "--device", "cpu", "--out", str(tmp_path / "o")]
    assert main(["fit", system, str(folder), "--backbone", backbone, *words]) == 2
    assert why in capfd.readouterr().err
    assert not (tmp_path / "o").exists()
