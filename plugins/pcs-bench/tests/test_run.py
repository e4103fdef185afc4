"""Runs: one line a cell, nothing done twice, and failures that are rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_bench.run.conduct import run_bench
from pcs_bench.run.plan import Protocol, jobs, split_setting
from pcs_bench.run.scoring import Metrics
from pcs_bench.run.store import Store
from pcs_bench.run.texts import plain, with_tokens
from pcs_core.data import Concept, Subject
from pcs_core.errors import InputError
from pcs_testing import make_subject

FEW = ("lora-dreambooth:tune.steps=2", "textual-inversion:token.steps=2", "sample.steps=2")


@dataclass(frozen=True)
class OneSubject:
    name: str
    folder: Any
    noun: str = "dog"
    token: str = "<fido>"
    class_: str = "pet"


@dataclass(frozen=True)
class OnePrompt:
    text: str
    kind: str = "place"


@dataclass(frozen=True)
class OneSuite:
    subjects: tuple[OneSubject, ...]
    id: str = "made"
    kind: str = "object"
    stands_for: str = "nothing"
    prompts: tuple[OnePrompt, ...] = tuple(
        OnePrompt(f"a photo of {{token}} {where}")
        for where in ("on a beach", "at night", "in snow")
    )


class Brightness:
    """Scores pictures by their mean, and remembers what it was shown."""

    id, title, paper, better, needs, per = "brightness", "Brightness", "", "higher", (), "picture"

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[str], Any]] = []

    def score(
        self, pictures: Any, *, prompts: Any, references: Any, masks: Any, untuned: Any
    ) -> Any:
        self.calls.append((len(pictures), prompts, untuned))
        assert pictures.shape[0] == len(prompts)
        assert references.shape[1:] == pictures.shape[1:]
        return pictures.mean((1, 2, 3))


class Far(Brightness):
    """Needs untuned pictures of the same prompts."""

    id, needs = "far", ("untuned",)

    def score(self, pictures: Any, *, untuned: Any, **_: Any) -> Any:
        return (pictures - untuned).abs().mean((1, 2, 3))


class Spread(Brightness):
    """One number for all pictures."""

    id, per = "spread", "suite"

    def score(self, pictures: Any, **_: Any) -> Any:
        return pictures.std().reshape(1)


HELD = {"brightness": Brightness(), "far": Far(), "spread": Spread()}


def metric_named(id: str) -> Any:
    if id == "absent":
        raise InputError("the weights of 'absent' are not here: fetch them from the project's page")
    return HELD[id]


def missing() -> Subject:
    raise InputError("photos/rex does not exist: put the pictures there")


SUITE = OneSuite((OneSubject("fido", lambda: make_subject("fido")), OneSubject("rex", missing)))
PROTOCOL = Protocol(
    suite="made",
    systems=("lora-dreambooth", "untuned", "copy"),
    subjects=("fido",),
    seeds=2,
    backbone="tiny",
    settings=FEW,
    metrics=("brightness",),
)


def run(folder: Path, protocol: Protocol = PROTOCOL) -> tuple[Any, dict[str, Any], list[str]]:
    outcome = run_bench(
        protocol,
        folder,
        engine="inline",
        suite=SUITE,
        metrics=Metrics(protocol.metrics, metric_named),
    )
    raw = (folder / "cells.jsonl").read_text().splitlines()
    return outcome, Store(folder).cells(), raw


def test_a_line_per_cell_and_nothing_twice(tmp_path: Path) -> None:
    outcome, lines, raw = run(tmp_path)
    assert outcome.exit_code == 0
    assert len(raw) == len(lines) == 3 * 3 * 2
    assert all(line["state"] == "done" for line in lines.values())
    fits = [p for p in (tmp_path / "fits").iterdir() if p.is_dir()]
    assert len(fits) == 1  # once per system and subject
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    again, _, raw_again = run(tmp_path)
    assert (again.exit_code, again.kept) == (0, 18)
    assert raw_again == raw
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")} == stamps


def test_same_noise_for_all_systems_and_plain_words_for_metrics(tmp_path: Path) -> None:
    _, lines, _ = run(tmp_path, replace(PROTOCOL, settings=(*FEW, "sample.scale=0.0")))
    tuned = lines["lora-dreambooth/fido/1/1"]
    assert tuned["prompt"] == "a photo of <fido> at night"
    assert lines["untuned/fido/1/1"]["prompt"] == "a photo of a dog at night"
    assert "a photo of a dog at night" in HELD["brightness"].calls[-1][1]
    from pcs_core import open_backbone, sample

    drawn = sample(
        None, open_backbone("tiny"), "a photo of a dog at night", seed=1001, steps=2, scale=0.0
    )
    stored = Store(tmp_path).read_picture(lines["untuned/fido/1/1"]["hash"])
    assert stored is not None
    assert (drawn[0] - stored).abs().max() < 3 / 255


def test_another_setting_is_another_picture_and_the_old_one_is_still_there(tmp_path: Path) -> None:
    _, first, _ = run(tmp_path)
    _, second, _ = run(tmp_path, replace(PROTOCOL, settings=(*FEW, "sample.scale=1.5")))
    key = "lora-dreambooth/fido/0/0"
    assert first[key]["hash"] != second[key]["hash"]
    assert Store(tmp_path).picture(first[key]["hash"]).exists()
    assert first["copy/fido/0/0"]["hash"] == second["copy/fido/0/0"]["hash"]


@pytest.mark.parametrize("damage", [b"", b"no picture", None])
def test_a_corrupt_cached_picture_is_drawn_again(tmp_path: Path, damage: bytes | None) -> None:
    _, lines, raw = run(tmp_path)
    line = lines["lora-dreambooth/fido/1/0"]
    path = tmp_path / line["picture"]
    whole = path.read_bytes()
    if damage is None:  # a whole picture, but another one
        path.write_bytes((tmp_path / lines["copy/fido/1/0"]["picture"]).read_bytes())
    else:
        path.write_bytes(damage)
    outcome, _, raw_again = run(tmp_path)
    assert outcome.kept == 17
    assert len(raw_again) == len(raw) + 1
    assert path.read_bytes() == whole  # bit for bit, drawn among the same neighbours


def test_failures_are_rows(tmp_path: Path) -> None:
    protocol = replace(
        PROTOCOL,
        systems=("lora-dreambooth", "lora-dreamboth", "copy"),
        subjects=("fido", "rex"),
        metrics=("brightness", "absent"),
    )
    outcome, lines, _ = run(tmp_path, protocol)
    assert outcome.exit_code == 3
    assert "did you mean" in lines["lora-dreamboth/fido/0/0"]["error"]
    assert "photos/rex does not exist" in lines["lora-dreambooth/rex/0/0"]["error"]
    fine = lines["lora-dreambooth/fido/0/0"]
    assert fine["state"] == "done"
    assert fine["scores"]["brightness"] > 0
    assert "weights of 'absent'" in fine["errors"]["absent"]
    assert len(lines) == 3 * 2 * 3 * 2


def test_a_metric_that_was_missing_is_made_up_for_without_drawing(tmp_path: Path) -> None:
    run(tmp_path, replace(PROTOCOL, metrics=("brightness", "absent")))
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    outcome, lines, _ = run(tmp_path, replace(PROTOCOL, metrics=("brightness", "far")))
    assert outcome.exit_code == 0
    assert lines["untuned/fido/2/1"]["scores"]["far"] == 0
    assert lines["lora-dreambooth/fido/2/1"]["scores"]["far"] > 0
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")} == stamps


def test_scores_of_sets(tmp_path: Path) -> None:
    run(tmp_path, replace(PROTOCOL, metrics=("spread",)))
    rows = json.loads((tmp_path / "sets.json").read_text())
    assert [(r["system"], r["count"]) for r in rows] == [
        ("untuned", 6),
        ("copy", 6),
        ("lora-dreambooth", 6),
    ]
    assert all(r["value"] > 0 for r in rows)


def test_a_picture_of_nan_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pcs_bench.run import sources

    draw = sources.Fitted.draw

    def spoiled(self: Any, chunk: Any) -> Any:
        pictures = draw(self, chunk)
        pictures[0] = torch.nan
        return pictures

    monkeypatch.setattr(sources.Fitted, "draw", spoiled)
    outcome, lines, _ = run(tmp_path)
    assert outcome.failed == 2  # the first of each seed
    assert "nan" in lines["lora-dreambooth/fido/0/0"]["error"]
    assert lines["lora-dreambooth/fido/1/0"]["state"] == "done"


def test_a_half_line_is_no_line(tmp_path: Path) -> None:
    _, _, raw = run(tmp_path)
    file = tmp_path / "cells.jsonl"
    file.write_text("\n".join(raw[:-1]) + "\n" + raw[-1][:40])
    outcome, lines, again = run(tmp_path)
    assert outcome.kept == 17
    assert len(lines) == 18
    assert [json.loads(line)["key"] for line in again] == [json.loads(line)["key"] for line in raw]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"systems": ("lora-dreamboth",)}, "did you mean 'lora-dreambooth'"),
        ({"systems": ("untuned",)}, "at least one system"),
        ({"systems": ("copy", "dreambooth", "dreambooth")}, "named twice"),
        ({"subjects": ("fydo",)}, "did you mean 'fido'"),
        ({"subjects": ()}, "no subject"),
        ({"settings": ("tune.steps",)}, "KEY=VALUE"),
        ({"backbone": "tyny"}, "did you mean 'tiny'"),
        ({"seeds": 0}, "at least one seed"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError if "backbone" not in change else Exception, match=says):
        run(tmp_path / "out", replace(PROTOCOL, **change))
    assert not (tmp_path / "out").exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with Store(tmp_path).locked(), pytest.raises(InputError, match="another command"):
        run(tmp_path)


def test_settings_and_order() -> None:
    assert split_setting("dreambooth:tune.steps=2") == ("dreambooth", "tune.steps=2")
    assert split_setting("a.b=c:d") == ("", "a.b=c:d")
    assert PROTOCOL.overrides("textual-inversion") == ("token.steps=2", "sample.steps=2")
    assert [j.system for j in jobs(PROTOCOL)] == ["untuned", "copy", "lora-dreambooth"]
    assert Protocol.read(json.loads(json.dumps(PROTOCOL.document()))) == PROTOCOL


def test_prompts() -> None:
    owl = (Concept("owl", "<o>", "owl"), Concept("cat", "<c>", "cat"))
    assert with_tokens("a {token} {noun} in snow", owl) == "<o> in snow"
    assert plain("a {token} {noun} in snow", owl) == "an owl in snow"
    assert with_tokens("photo of {token} with a {token2}", owl) == "photo of <o> with a <c>"
    assert plain("photo of {token} with the {token2}", owl) == "photo of an owl with the cat"
    assert plain("a {noun} of {noun2}", owl) == "an owl of cat"
