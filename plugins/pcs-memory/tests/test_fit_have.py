"""``pcs fit --have SIZE``: the options that spare enough memory are chosen, said, and used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import load_recipe
from pcs_core.errors import InputError, NotInstalledError
from pcs_folders.pictures import write_png
from pcs_memory.choosing import memory_setting, tries
from pcs_memory.settings import LADDER, Setting

SYSTEM = "lora-dreambooth"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "dog"
    folder.mkdir()
    rng = torch.Generator().manual_seed(0)
    for number in range(2):
        write_png(torch.rand(3, 40, 40, generator=rng), folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def exact() -> int:
    """What a fit of two pictures without options takes, in bytes."""
    recipe = load_recipe(SYSTEM, backbone="tiny")
    (one,) = tries(recipe, "tiny", Setting(), aside=False, ladder=False, pictures=2)
    return one.fit.peak


@pytest.fixture
def fit(
    capfd: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    from pcs_cli.main import main

    def run(*words: str) -> tuple[int, str, str]:
        usual = [SYSTEM, str(pictures), "--noun", "dog", "--token", "<dog>", "--backbone", "tiny"]
        out = ("--out", str(tmp_path / "out"), "--device", "cpu")
        code = main(["fit", *usual, *out, "--set", "tune.steps=2", *words])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.rotated
def test_the_first_setting_that_fits_is_used(
    fit: Callable[..., Any], exact: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pcs_engine

    given: dict[str, Any] = {}
    real = pcs_engine.fit

    def watched(*words: Any, **options: Any) -> Any:
        given.update(options)
        return real(*words, **options)

    monkeypatch.setattr(pcs_engine, "fit", watched)
    code, _, err = fit("--have", f"{exact / 1e6 - 0.01:.3f}MB", "--no-preview")
    assert code == 0, err
    assert "pcs fit (without options)" in err
    assert "pcs fit --gradient-checkpointing: " in err
    assert (given["precision"], given["checkpointing"]) == ("fp32", True)


def test_where_there_is_enough_nothing_is_given_up(fit: Callable[..., Any]) -> None:
    code, out, _ = fit("--have", "8GB", "--dry-run", "--json")
    assert code == 0
    (line,) = [line for line in json.loads(out)["plan"] if "--have" in line]
    assert line.startswith("--have 8GB: pcs fit (without options): ")
    assert line.endswith("fits")


@pytest.mark.rotated
def test_more_subjects_take_more(exact: int) -> None:
    recipe = load_recipe(SYSTEM, backbone="tiny")
    (two,) = tries(recipe, "tiny", Setting(), aside=False, ladder=False, pictures=2, subjects=2)
    assert two.fit.peak > exact
    with pytest.raises(InputError, match="--have 1MB: with .* a fit still takes"):
        memory_setting(recipe, "tiny", "1MB", device="cpu", pictures=2)


@pytest.mark.rotated
def test_a_card_is_asked_how_much_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        total_memory = 9 * 10**9

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    said: list[str] = []
    recipe = load_recipe(SYSTEM, backbone="tiny")
    setting = memory_setting(recipe, "tiny", "auto", device="cuda:0", tell=said.append)
    assert setting == LADDER[0]
    Card.total_memory = 10**9 + 10**6
    with pytest.raises(InputError, match="--offload model a fit still takes"):
        memory_setting(recipe, "tiny", "auto", device="cuda:0")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--have", "auto"], "--have auto asks a GPU"),
        (["--have", "much"], "--have much: write how much memory there is"),
        (
            ["--have", "8GB", "--precision", "bf16", "--gradient-checkpointing"],
            "--have chooses --precision and --gradient-checkpointing: leave out one or the other",
        ),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    fit: Callable[..., Any], tmp_path: Path, words: list[str], says: str
) -> None:
    code, _, err = fit(*words)
    assert code == 2
    assert says in err
    assert not (tmp_path / "out").exists()


def test_without_the_plugin_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcs_cli.fit_plan import chooser
    from pcs_core.catalogue import Catalogue

    real = Catalogue.ids
    monkeypatch.setattr(
        Catalogue, "ids", lambda self, noun: set(real(self, noun)) - {"memory_setting"}
    )
    with pytest.raises(NotInstalledError, match=r"pip install \./plugins/pcs-memory"):
        chooser()
