"""`scripts/adapters.py`, from records to figures, on the tiny network with untrained rulers."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pcs_core import load
from pcs_mini.rulers import identity, judge, stored
from pcs_mini.rulers.trunk import Embedder
from pcs_mini.world.backdrops import COLOURS, SCENES

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "ip-adapter": ["attention.parallel_adapter.tokens=2"],
    "fastcomposer": ["attention.localization_loss.scale=2"],
    "instantid": ["attention.parallel_adapter.tokens=2"],
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("adapters", ROOT / "scripts" / "adapters.py")
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["adapters"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


@pytest.fixture
def _rulers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    names = {"concept": ["dog"], "style": ["flat"], "place": [*COLOURS, *SCENES]}
    stored.write(tmp_path / "rulers" / "judge", judge.build(names), {"names": names})
    net = {"size": 8, "widths": [4, 4, 4, 4]}
    stored.write(tmp_path / "rulers" / "identity", Embedder(**net), {"net": net})
    monkeypatch.setenv(stored.ELSEWHERE, str(tmp_path / "rulers"))
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
@pytest.mark.usefixtures("_rulers")
def test_train_and_measure(
    script: ModuleType, system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = {"ip-adapter": "adapter", "fastcomposer": "compose", "instantid": "identity"}[system]
    changes = [f"{phase}.batch=2", "sample.steps=1", *SMALL[system]]
    command = ["adapters.py", "train", "measure", "--backbone", "tiny", "--out", str(tmp_path)]
    command += ["--systems", system, "--steps", "2", "--precision", "no", "--subjects", "2"]
    command += ["--rulers", "mini.image", *(f"--set={c}" for c in changes)]
    found = script.cases  # the tiny tokenizer spells long words out
    short = lambda *a: [replace(c, noun=n) for c, n in zip(found(*a), ("dog", "cat"), strict=True)]  # noqa: E731
    monkeypatch.setattr(script, "cases", short)
    monkeypatch.setattr(sys, "argv", command)
    script.main()
    adapter = load(tmp_path / system)
    assert {t.dtype for t in adapter.tensors.values()} == {torch.float16}
    assert adapter.extra["pretrained"]["images"] == 4
    figures = json.loads((tmp_path / f"{system}.json").read_text())
    rows = figures["rulers"]["mini.image"]
    assert {script.OWN, script.NONE, script.OTHER} <= set(rows)
    assert -1.0 <= rows[script.OWN]["similarity"] <= 1.0
    assert (tmp_path / f"{system}.jpg").stat().st_size > 0
    card = script.card(adapter, figures)
    assert f"chance {1 / 2:.2f}" in card
    assert f"{script.NONE} {rows[script.NONE]['each'][0]:.3f}" in card
    with pytest.raises(SystemExit, match="of another backbone than the installed mini"):
        script.ship(system, script.argparse.Namespace(out=tmp_path))
    made = (tmp_path / system / "weights.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [a for a in command if a != "measure"])
    script.main()  # what is done is not done again
    assert (tmp_path / system / "weights.safetensors").stat().st_mtime_ns == made


def test_likeness_tells_the_right_subject_from_another(script: ModuleType) -> None:
    kept = [torch.eye(3)[i : i + 1].expand(4, 3) for i in range(3)]
    looks = {script.OWN: [k[:2] for k in kept], script.OTHER: [kept[i - 1][:2] for i in range(3)]}
    found = script.likeness(looks, kept, kept)
    same, other = ({"each": [v] * 3, "similarity": v, "nearest": v} for v in (1.0, 0.0))
    assert found[script.OWN] == {**same, "better_for": 0}
    assert found[script.OTHER] == {**other, "better_for": 3}
    assert found["one subject and the next"]["similarity"] == 0.0


class Studio:
    """Names as the world has them."""

    TRAINED = ("dog/flat", "cat/flat", "cat/glossy")
    HELD = ("dog/glossy", "robot/flat", "robot/outlined", "dog/outlined")

    def names(self, kind: str, *, trained: bool = False) -> list[str]:
        return list(self.TRAINED if trained else self.HELD)


def test_held_out_members_are_told_apart_by_what_is_new(script: ModuleType) -> None:
    assert script.groups(Studio(), ("drawn",)) == {
        "new concept": ["robot/flat"],
        "new concept and style": ["robot/outlined"],
        "new instance": ["dog/glossy"],
        "new style": ["dog/outlined"],
    }
