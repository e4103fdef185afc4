"""`scripts/adapters.py`, from records to figures, on the tiny network with untrained metrics."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import adapters
import pytest
import torch
from pretraining import measuring
from pretraining.card import NONE, OTHER, OWN, card, ship
from pretraining.measuring import likeness
from pretraining.subjects import groups

from pcs_core import load
from pcs_mini.metrics import identity, judge, stored
from pcs_mini.metrics.trunk import Embedder
from pcs_mini.world.backdrops import COLOURS, SCENES

SMALL = {
    "ip-adapter": ["attention.parallel_adapter.tokens=2"],
    "fastcomposer": ["attention.localization_loss.scale=2"],
    "instantid": ["attention.parallel_adapter.tokens=2"],
}


@pytest.fixture
def _metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    names = {"concept": ["dog"], "style": ["flat"], "place": [*COLOURS, *SCENES]}
    stored.write(tmp_path / "metrics" / "judge", judge.build(names), {"names": names})
    net = {"size": 8, "widths": [4, 4, 4, 4]}
    stored.write(tmp_path / "metrics" / "identity", Embedder(**net), {"net": net})
    monkeypatch.setenv(stored.ELSEWHERE, str(tmp_path / "metrics"))
    for module in (judge, identity):
        module.load.cache_clear()


@pytest.mark.parametrize(
    "system",
    [
        "fastcomposer",
        pytest.param("ip-adapter", marks=pytest.mark.slow),
        pytest.param("instantid", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("_metrics")
def test_train_and_measure(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phase = {"ip-adapter": "adapter", "fastcomposer": "compose", "instantid": "identity"}[system]
    changes = [f"{phase}.batch=2", "sample.steps=1", *SMALL[system]]
    command = ["adapters.py", "train", "measure", "--backbone", "tiny", "--out", str(tmp_path)]
    command += ["--systems", system, "--steps", "2", "--precision", "fp32", "--subjects", "2"]
    command += ["--metrics", "mini.image", *(f"--set={c}" for c in changes)]
    real = measuring.cases  # the tiny tokenizer spells long words out
    short = lambda *a: [replace(c, noun=n) for c, n in zip(real(*a), ("dog", "cat"), strict=True)]  # noqa: E731
    monkeypatch.setattr(measuring, "cases", short)
    monkeypatch.setattr(sys, "argv", command)
    adapters.main()
    adapter = load(tmp_path / system)
    assert {t.dtype for t in adapter.tensors.values()} == {torch.float16}
    assert adapter.extra["pretrained"]["images"] == 4
    figures = json.loads((tmp_path / f"{system}.json").read_text())
    rows = figures["metrics"]["mini.image"]
    assert {OWN, NONE, OTHER} <= set(rows)
    assert -1.0 <= rows[OWN]["similarity"] <= 1.0
    assert (tmp_path / f"{system}.jpg").stat().st_size > 0
    text = card(adapter, figures)
    assert f"chance {1 / 2:.2f}" in text
    assert f"{NONE} {rows[NONE]['each'][0]:.3f}" in text
    with pytest.raises(SystemExit, match="of another backbone than the installed mini"):
        ship(system, argparse.Namespace(out=tmp_path))
    made = (tmp_path / system / "weights.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [a for a in command if a != "measure"])
    adapters.main()  # what is done is not done again
    assert (tmp_path / system / "weights.safetensors").stat().st_mtime_ns == made


def test_likeness_tells_the_right_subject_from_another() -> None:
    kept = [torch.eye(3)[i : i + 1].expand(4, 3) for i in range(3)]
    looks = {OWN: [k[:2] for k in kept], OTHER: [kept[i - 1][:2] for i in range(3)]}
    figures = likeness(looks, kept, kept)
    same, other = ({"each": [v] * 3, "similarity": v, "nearest": v} for v in (1.0, 0.0))
    assert figures[OWN] == {**same, "better_for": 0}
    assert figures[OTHER] == {**other, "better_for": 3}
    assert figures["one subject and the next"]["similarity"] == 0.0


class Studio:
    """Names as the world has them."""

    TRAINED = ("dog/flat", "cat/flat", "cat/glossy")
    HELD = ("dog/glossy", "robot/flat", "robot/outlined", "dog/outlined")

    def names(self, kind: str, *, trained: bool = False) -> list[str]:
        return list(self.TRAINED if trained else self.HELD)


def test_held_out_members_are_told_apart_by_what_is_new() -> None:
    assert groups(Studio(), ("drawn",)) == {
        "new concept": ["robot/flat"],
        "new concept and style": ["robot/outlined"],
        "new instance": ["dog/glossy"],
        "new style": ["dog/outlined"],
    }
