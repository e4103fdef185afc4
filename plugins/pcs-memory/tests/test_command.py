"""``pcs memory``: what it says, what it finds for a card, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcs_core.errors import InputError
from pcs_diffusers.tiny import tiny
from pcs_memory.settings import LADDER, read_memory


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, without_weights: Callable[[Any, Path], Path]
) -> Path:
    return without_weights(tiny(), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def memory(capfd: pytest.CaptureFixture[str], folder: Path) -> Callable[..., tuple[int, str, str]]:
    from pcs_cli.main import main

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["memory", "lora-dreambooth", "--backbone", str(folder), *words])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


def test_it_answers_from_a_folder_without_weights(memory: Callable[..., Any], folder: Path) -> None:
    assert not list(folder.rglob("*.safetensors"))
    code, out, _ = memory("--json", "--device", "cuda")
    assert code == 0
    (one,) = json.loads(out)["tried"]
    weights = one["fit"]["weights"]
    assert weights.keys() == {"denoiser", "text", "vae"}
    assert one["fit"]["peak"] > sum(weights.values()) + one["fit"]["trained"]
    code, out, _ = memory("--device", "cuda")
    assert "no weights were read" in out
    assert "denoiser 3 MB" in out


def test_it_says_that_an_installed_backbone_s_weights_were_read(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from pcs_cli.main import main

    assert main(["memory", "lora-dreambooth", "--backbone", "tiny", "--device", "cpu"]) == 0
    said = capfd.readouterr().out.splitlines()[0]
    assert said == "lora-dreambooth on tiny, memory of the CPU; its weights were read, and not used"


@pytest.mark.rotated
def test_the_first_setting_that_fits_is_found(memory: Callable[..., Any]) -> None:
    _, out, _ = memory("--json", "--device", "cuda")
    (exact,) = json.loads(out)["tried"]
    least = exact["fit"]["peak"]
    code, out, _ = memory("--device", "cuda", "--have", f"{least / 1e6 - 0.01:.3f}MB", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["fits"]
    tried = answer["tried"]
    assert [row["options"] for row in tried] == [s.options for s in LADDER][: len(tried)]
    assert len(tried) > 1
    assert all(row["fit"]["peak"] > answer["have"] for row in tried[:-1])
    assert tried[-1]["fit"]["peak"] <= answer["have"]
    assert answer["options"] == tried[-1]["options"] == "--gradient-checkpointing"


@pytest.mark.rotated
def test_too_little_is_said_with_what_takes_least(memory: Callable[..., Any]) -> None:
    code, out, err = memory("--device", "cuda", "--have", "1MB")
    assert code == 1
    assert "nothing of what was tried needs no more than 1 MB" in out
    assert err.count("is more than 1 MB") == len(LADDER)


@pytest.mark.parametrize(
    ("words", "size"),
    [("12GB", 12 * 10**9), ("16 GiB", 16 * 2**30), ("800mb", 8 * 10**8), ("8G", 8 * 10**9)],
)
def test_how_much_there_is_is_read(words: str, size: int) -> None:
    assert read_memory(words) == size


@pytest.mark.parametrize("words", ["much", "12 apples", "-3GB", "12"])
def test_what_is_no_size_is_refused(words: str) -> None:
    with pytest.raises(InputError, match="--have"):
        read_memory(words)


def test_a_family_that_cannot_host_it_is_refused(memory: Callable[..., Any], folder: Path) -> None:
    from pcs_cli.main import main

    assert main(["memory", "motiondirector", "--backbone", str(folder)]) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--quantize", "int8"], "--quantize int8: what libraries pack is not run here"),
        (["--offload", "group", "--device", "cuda"], "known of model alone"),
        (["--offload", "model", "--device", "cpu"], "in the host's memory already"),
    ],
)
def test_what_is_not_known_is_refused(
    memory: Callable[..., Any], words: list[str], says: str
) -> None:
    code, _, err = memory(*words)
    assert code == 2
    assert says in err


@pytest.mark.rotated
def test_the_command_line_that_takes_least_is_the_last_of_the_ladder(
    memory: Callable[..., Any],
) -> None:
    last = LADDER[-1]
    words = ("--precision", "bf16", "--gradient-checkpointing", "--quantize", "bf16")
    _, out, _ = memory("--json", "--device", "cuda", *words, "--offload", "model")
    (least,) = json.loads(out)["tried"]
    assert least["options"] == last.options
    _, out, _ = memory("--json", "--device", "cuda", *words)
    (here,) = json.loads(out)["tried"]
    assert least["fit"]["peak"] < here["fit"]["peak"]
    assert least["drawing"]["peak"] < here["drawing"]["peak"]
