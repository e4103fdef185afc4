"""The report: whole, self-contained, escaped, and honest about what is missing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import pcs_bench.metrics
from pcs_bench.report.plot import spread, ticks, trade_off, width
from pcs_bench.report.results import spearman
from pcs_bench.report.write import published, write_report
from pcs_bench.run.keys import digest
from pcs_bench.run.store import Store, file_hash, write_json
from pcs_core import write_png
from pcs_core.errors import InputError

VOID = {"meta", "img", "br", "link", "input", "hr"}
LOADS = {"src", "srcset", "href", "data", "poster", "action", "xlink:href", "background"}
SECTIONS = [
    *("table", "trade-off", "claims", "significance", "cost", "pictures", "worst", "failures"),
    *("published", "protocol"),
]


class Reader(HTMLParser):
    """Checks that tags close, and collects what could be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[tuple[str, str, str]] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str | None] = []
        self.styles: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.loads += [(tag, k, v or "") for k, v in attrs if k in LOADS]
        self.styles += [given["style"]] if "style" in given else []
        assert not [k for k in given if k.startswith("on")], "a script in an attribute"
        if tag == "img":
            self.alts.append(given.get("alt"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if self.open[-1:] == ["style"] else self.words).append(data)


METRICS = {
    "clip-t": ("CLIP-T", "higher"),
    "clip-i": ("CLIP-I", "higher"),
    "copy-score": ("Copy score", "lower"),
}


def metric(id: str) -> Any:
    title, better = METRICS[id]
    return SimpleNamespace(id=id, title=title, paper="", better=better, needs=(), per="picture")


SCORES = {  # alignment, fidelity, copying
    "untuned": (0.9, 0.1, 0.1),
    "copy": (0.1, 0.95, 0.99),
    "dreambooth": (0.4, 0.8, 0.6),
    "textual-inversion": (0.7, 0.5, 0.3),
    "p-plus": (0.3, 0.4, 0.2),
}


def make(folder: Path, subjects: int = 2, systems: Any = tuple(SCORES), **changes: Any) -> Store:
    """Write a folder of a benchmark as a run would, with known scores."""
    store = Store(folder)
    names = [f"dog{i}" for i in range(subjects)]
    lines = []
    for s, system in enumerate(systems):
        for n, name in enumerate(names):
            fit = digest(system=system, name=name)
            if system not in ("untuned", "copy"):
                facts = {"key": fit, "seconds": 10.0 + s, "resumed": False, "peak_bytes": 2**30}
                write_json(
                    folder / "fits" / f"{fit}.json",
                    {**facts, "peak_of": "process", "parameters": 12, "subject": name},
                )
            for index in range(3):
                key = digest(system=system, name=name, index=index)
                rng = torch.Generator().manual_seed(s * 100 + n * 10 + index)
                write_png(torch.rand(3, 16, 16, generator=rng), store.picture(key))
                wobble = 0.01 * (n + index)
                scores = dict(zip(METRICS, (v + wobble for v in SCORES[system]), strict=True))
                lines.append(
                    {
                        **{"key": f"{system}/{name}/{index}/0", "system": system, "subject": name},
                        **{"index": index, "seed": 0, "kind": "place", "state": "done"},
                        **{"template": "{token} <b>&", "prompt": "<dog> <b>&", "hash": key},
                        **{"fit": "" if system in ("untuned", "copy") else fit, "seconds": 0.5},
                        **{"sha256": file_hash(store.picture(key)), "scores": scores},
                        **{"picture": f"pictures/{key[:2]}/{key}.png", "errors": {}},
                    }
                )
    for name in names:
        write_png(torch.rand(3, 16, 16), store.references(name) / "00.png")
    with store.appending() as appender:
        for line in lines:
            appender.add(line)
    protocol = {
        **{"suite": "<made>", "systems": list(systems), "subjects": names, "seeds": 1},
        **{"backbone": "tiny", "device": "cpu", "metrics": list(METRICS), "suite_kind": "object"},
        **{"stands_for": "dogs & <cats>", "cells": [line["key"] for line in lines]},
        **{"machine": {"architecture": "x86_64", "cores": 2}, "versions": {"torch": "2"}},
        **changes,
    }
    write_json(folder / "run.json", protocol)
    return store


@pytest.fixture(autouse=True)
def metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcs_bench.metrics, "get", metric, raising=False)


def read(path: Path) -> tuple[Reader, str]:
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader, text


def test_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    html, *_ = write_report(tmp_path)
    reader, text = read(html)
    assert reader.open == []
    assert reader.ids == SECTIONS
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    for tag, name, value in reader.loads:
        if tag == "a":
            assert value.startswith("https://arxiv.org/abs/")
        else:
            assert (tag, name) == ("img", "src")
            assert value.startswith("data:image/jpeg;base64,")
    for style in reader.styles:
        assert not re.search(r"url\(|@import|expression", style)
    assert all(reader.alts)
    assert reader.tags.count("img") >= 5 * 2 * 3 + 2
    assert reader.tags.count("svg") == 1
    assert "<made>" not in text  # escaped, as every word of a user
    assert "<b>" not in text
    assert "dogs &amp; &lt;cats&gt;" in text


def test_numbers_of_the_table(tmp_path: Path) -> None:
    make(tmp_path)
    html, table, data, tex = write_report(tmp_path)
    _, text = read(html)
    facts = json.loads(data.read_text())
    means = {row["system"]: row["scores"]["clip-i"]["mean"] for row in facts["systems"]}
    assert means["dreambooth"] == pytest.approx(0.8 + 0.015)
    assert '<td class="n best">0.815<br>' in text  # the best system, though copying scores more
    assert facts["front"] == ["dreambooth", "textual-inversion"]
    pair = next(p for p in facts["pairs"] if (p["first"], p["second"]) == ("untuned", "copy"))
    assert pair["difference"] == pytest.approx(0.8)
    assert pair["p"] == pytest.approx(2 / 2**6)  # six prompts, all of one sign
    assert pair["units"] == 6
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == 5 * 2 * 3
    assert float(rows[0]["clip-t"]) == pytest.approx(0.9)
    assert r"\textbf{0.815}" in tex.read_text()
    assert tex.read_text().count(r"\\") == 6
    assert next(r for r in facts["systems"] if r["system"] == "dreambooth")["seconds"] == 12.0


def test_claims_fall_either_way(tmp_path: Path) -> None:
    make(tmp_path / "apart")
    write_report(tmp_path / "apart")
    first, second = json.loads((tmp_path / "apart" / "report.json").read_text())["claims"]
    assert first["answer"].startswith(
        "It holds here: textual-inversion leads in CLIP-T, dreambooth"
    )
    assert "above 3 of 3 systems" in second["answer"]
    assert "over systems: 1.00" in second["answer"]
    assert (first["verdict"], second["verdict"]) == ("holds", "holds")
    assert first["numbers"]["no_leader_in_both"] == 1
    assert second["numbers"]["within"] == pytest.approx(1)  # both wobble alike
    assert second["numbers"]["low"] > 0
    make(tmp_path / "one", systems=("untuned", "textual-inversion", "p-plus"))
    write_report(tmp_path / "one")
    first, _ = json.loads((tmp_path / "one" / "report.json").read_text())["claims"]
    assert first["answer"].startswith("It does not hold here: textual-inversion leads in both")
    assert first["verdict"] == "does not hold"
    assert first["numbers"]["no_leader_in_both"] == 0


def rescore(store: Store, system: str, id: str, value: Any) -> None:
    """Let ``value`` (of subject number and prompt) stand for a score."""
    with store.appending() as appender:
        for line in store.cells().values():
            if line["system"] == system:
                new = value(int(line["subject"][3:]), line["index"])
                appender.add({**line, "scores": {**line["scores"], id: new}})


def test_claims_that_the_numbers_leave_open(tmp_path: Path) -> None:
    store = make(tmp_path, subjects=6)
    # two systems that take turns in leading: a bootstrap sample may show either
    rescore(store, "dreambooth", "clip-t", lambda n, i: 1.4 if n % 2 else 0.0)
    for system in ("dreambooth", "textual-inversion", "p-plus"):
        rescore(store, system, "copy-score", lambda n, i: [[0, 1, 2], [2, 1, 0]][n % 2][i] / 10)
    write_report(tmp_path)
    first, second = json.loads((tmp_path / "report.json").read_text())["claims"]
    assert first["verdict"] == "undecided"
    assert 0.05 < first["numbers"]["no_leader_in_both"] < 0.95
    assert "more subjects are needed" in first["answer"]
    assert second["verdict"] == "undecided"
    assert second["numbers"]["low"] < 0 < second["numbers"]["high"]
    for system in ("dreambooth", "textual-inversion", "p-plus"):
        rescore(store, system, "copy-score", lambda n, i: (2 - i) / 10)
    write_report(tmp_path)
    _, second = json.loads((tmp_path / "report.json").read_text())["claims"]
    assert second["verdict"] == "does not hold"


def test_many_subjects_are_the_unit(tmp_path: Path) -> None:
    make(tmp_path, subjects=6)
    write_report(tmp_path)
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["unit"] == "subject"
    assert {p["units"] for p in facts["pairs"]} == {6}


def test_what_failed_or_is_damaged_is_said(tmp_path: Path) -> None:
    store = make(tmp_path)
    cells = store.cells()
    store.picture(cells["dreambooth/dog0/1/0"]["hash"]).write_bytes(b"no picture")
    gone = {**cells["p-plus/dog0/0/0"], "state": "failed", "error": "<script>no fit</script>"}
    for key in ("scores", "errors", "picture", "hash", "prompt"):
        del gone[key]
    half = {**cells["p-plus/dog0/1/0"], "errors": {"clip-t": "no weights"}}
    half["scores"] = {"clip-i": 0.2}
    with store.appending() as appender:
        appender.add(gone)
        appender.add(half)
    protocol = store.protocol()
    protocol["cells"].append("p-plus/dog9/0/0")
    write_json(tmp_path / "run.json", protocol)
    html, *_ = write_report(tmp_path)
    reader, _ = read(html)
    words = " ".join(reader.words)
    assert "1 × <script>no fit</script>" in words
    assert "script" not in reader.tags
    assert "1 × no weights" in words
    assert "1 pictures on disk are damaged or gone: dreambooth/dog0/1/0" in words
    assert "1 cells are not done yet" in words


def test_metrics_that_do_not_open_and_other_axes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    monkeypatch.setattr(pcs_bench.metrics, "get", lambda id: 1 / 0)
    write_report(tmp_path, fidelity="copy-score")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["fidelity"] == "copy-score"
    with pytest.raises(InputError, match="did you mean 'clip-t'"):
        write_report(tmp_path, alignment="clip-x")


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no benchmark"):
        write_report(tmp_path)
    make(tmp_path)
    (tmp_path / "cells.jsonl").unlink()
    with pytest.raises(InputError, match="no cell is done"):
        write_report(tmp_path)


def test_published_table_is_the_survey_s() -> None:
    rows = published()
    assert len(rows) == 23
    assert sum(row[0] == "object" for row in rows) == 15
    assert ["object", "NeTI", "neti", "TTF", "SD 1.4", 0.283, 0.801] in rows


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH")
def test_a_browser_shows_it_without_a_network(tmp_path: Path) -> None:
    make(tmp_path / "run", subjects=6)
    html, *_ = write_report(tmp_path / "run")
    shot = tmp_path / "shot.png"
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,2000"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    ended = subprocess.run(
        [CHROMIUM, *words, f"--screenshot={shot}", html.as_uri()],
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert shot.exists(), ended.stderr.decode()[-500:]
    with Image.open(shot) as seen:
        assert seen.size == (1200, 2000)
        colours = seen.convert("RGB").getcolors(1200 * 2000) or []
    assert len(colours) > 50  # marks of the plot and letters, not an empty page


def test_plot() -> None:
    assert ticks(0.11, 0.93) == [0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0.5, 0.5)[0] < 0.5 < ticks(0.5, 0.5)[-1]
    svg = trade_off({"<a>": (0.1, 0.2), "b": (0.5, 0.1)}, ["<a>", "b"], across="x", up="y")
    reader = Reader()
    reader.feed(svg)
    assert reader.open == []
    assert reader.tags.count("circle") == 2
    assert reader.tags.count("polyline") == 1
    numbers = [float(n) for n in re.findall(r'c[xy]="([\d.]+)"', svg)]
    assert all(0 < n < 720 for n in numbers)


def test_labels_of_a_plot_cover_neither_marks_nor_one_another() -> None:
    near = {f"system-{i}": (300.0 + 3 * i, 200.0 + 2 * i) for i in range(9)} | {
        "far": (100.0, 90.0)
    }
    places = spread(near)
    boxes = {n: (left, base - 10, left + width(n), base + 2) for n, (left, base) in places.items()}
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in near.values()]
    for one, other in combinations([*boxes.values(), *marks], 2):
        if one in marks and other in marks:
            continue
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart
    assert places["far"] == (109, 94)  # nothing near: right beside its mark


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
