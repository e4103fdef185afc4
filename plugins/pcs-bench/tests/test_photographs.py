"""Photographs that know their subject again, and suites that take another's subjects."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import pcs_bench.metrics
from pcs_bench import photographs, suites
from pcs_bench.metrics import Metric, measures
from pcs_cli.main import main
from pcs_core import write_png
from pcs_core.errors import InputError

COLOURS = {"ann": (0.9, 0.1, 0.1), "bob": (0.1, 0.9, 0.1), "rex": (0.1, 0.2, 0.9)}


def picture(name: str, number: int) -> torch.Tensor:
    noise = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(number))
    return (torch.tensor(COLOURS[name])[:, None, None] + (noise - 0.5) / 8).clamp(0, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in COLOURS:
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(3):
            write_png(picture(name, number), tmp_path / "mine" / name / f"{number}.png")
    return tmp_path / "mine"


def colour(**changed: Any) -> Metric:
    eye = SimpleNamespace(
        image_features=lambda x: torch.nn.functional.normalize(x.mean((2, 3)), dim=1)
    )
    given = {"needs": ("references",), "measure": measures.subject_similarity(lambda: eye)}
    return Metric(
        **{"id": "colour", "title": "Colour", "paper": "", "better": "higher"} | given | changed,
        model="none",
        preprocessing="none",
    )


def suite(folder: Path) -> Any:
    nouns = ["ann=person", "bob=person", "rex=dog"]
    return suites.load(suites.make(folder, nouns))


def test_a_metric_that_sees_colours_knows_each_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pcs_bench.metrics, "get", lambda id: colour())
    albums = photographs.albums(suite(folder))
    recognition = photographs.recognise(albums, "colour")
    assert (recognition.subjects, recognition.photographs) == (3, 9)
    assert (recognition.auc, recognition.auc_kind, recognition.nearest) == (1, 1, 1)
    assert recognition.same is not None
    assert recognition.other is not None
    assert recognition.same > 0.99 > recognition.other


def test_a_metric_that_sees_nothing_is_at_chance(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(pictures: Any, **_: Any) -> Any:
        return torch.ones(len(pictures))

    monkeypatch.setattr(pcs_bench.metrics, "get", lambda id: colour(measure=blind))
    recognition = photographs.recognise(photographs.albums(suite(folder)), "colour")
    assert (recognition.auc, recognition.nearest) == (0.5, 0)


def test_a_photograph_is_not_compared_with_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def counting(pictures: Any, *, references: Any, **_: Any) -> Any:
        seen.append((len(pictures), len(references)))
        assert not any(torch.equal(p, r) for p in pictures for r in references)
        return torch.zeros(len(pictures))

    monkeypatch.setattr(pcs_bench.metrics, "get", lambda id: colour(measure=counting))
    photographs.recognise(photographs.albums(suite(folder), 2), "colour")
    assert sorted(seen) == [(1, 2)] * 6 + [(3, 3)] * 2


def test_what_cannot_be_asked(folder: Path) -> None:
    with pytest.raises(InputError, match="no similarity"):
        photographs.recognise([], "clip-t")
    with pytest.raises(InputError, match="no similarity"):
        photographs.recognise([], "copy")
    with pytest.raises(InputError, match="two subjects"):
        photographs.albums(suite(folder), 1)


def test_the_command(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(suites.make(folder, ["ann=person", "bob=person", "rex=dog"]))
    monkeypatch.setenv("PCS_BENCH_WEIGHTS", str(tmp_path / "none"))
    get = pcs_bench.metrics.get
    monkeypatch.setattr(
        pcs_bench.metrics, "get", lambda id: colour() if id == "colour" else get(id)
    )
    assert main(["bench", "validate", path, "--metrics", "colour"]) == 0
    said = capsys.readouterr().out
    assert "9 photographs of 3 subjects" in said
    assert said.splitlines()[-1].split()[0] == "colour"
    assert said.splitlines()[-1].split()[-1] == "1.000"
    from pcs_bench.metrics import efficientnet

    efficientnet.efficientnet.cache_clear()
    words = ["bench", "validate", path, "--metrics", "colour,effnet-lite-i", "--json"]
    assert main(words) == 3
    rows = json.loads(capsys.readouterr().out)["metrics"]
    assert rows[0]["auc"] == 1
    assert "pcs bench weights --fetch efficientnet-lite0" in rows[1]["why"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["validate", "dreambentch"], "did you mean 'dreambench'"),
        (["validate", "dreambench"], "git clone"),
        (["validate", "--limit", "2"], "name one"),
        (["validate", "{suite}", "--metrics", "clip-ii"], "did you mean 'clip-i'"),
        (["new", "{mine}", "--like", "dreambench", "--noun", "dog"], "leave out the others"),
        (["new", "{mine}", "--like", "dreambentch"], "did you mean 'dreambench'"),
        (["new", "{mine}", "--like", "dreambench"], "has a subject of this name"),
        (["new", "{mine}", "--like", "mini-object"], "is drawn"),
        (["new", "{mine}", "--like", "custom-10"], "lists subjects"),
        (["new", "{mine}/none", "--noun", "dog"], "none"),
    ],
)
def test_what_commands_refuse(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PCS_BENCH_IMAGES", str(tmp_path / "images"))
    path = suites.make(folder, ["ann=person", "bob=person", "rex=dog"])
    given = [w.replace("{suite}", str(path)).replace("{mine}", str(folder)) for w in words]
    assert main(["bench", *given]) == 2
    assert says in capsys.readouterr().err


def test_a_suite_like_dreambench(tmp_path: Path) -> None:
    original = suites.load("dreambench")
    for subject in original.subjects:
        (tmp_path / subject.name).mkdir()
        for number in range(2):
            write_png(picture("rex", number), tmp_path / subject.name / f"{number:02d}.png")
    assert main(["bench", "new", str(tmp_path), "--like", "dreambench"]) == 0
    remade = suites.load(tmp_path)
    assert "not comparable" in remade.stands_for
    for remade_subject, other in zip(remade.subjects, original.subjects, strict=True):
        assert (
            remade_subject.name,
            remade_subject.noun,
            remade_subject.token,
            remade_subject.class_,
        ) == (*(other.name, other.noun, other.token, other.class_),)
        assert remade.prompts_for(remade_subject) == original.prompts_for(other)
    assert len(remade.subjects[0].folder().images) == 2
    write_png(picture("ann", 0), tmp_path / "backpack" / "00.png")
    with pytest.raises(InputError, match="differs from the manifest"):
        remade.subjects[0].folder()
