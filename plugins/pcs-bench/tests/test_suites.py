"""Suites load, refuse missing and changed pictures with instructions, and can be one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pcs_bench import suites
from pcs_core import write_png
from pcs_core.errors import InputError


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PCS_BENCH_IMAGES", str(tmp_path / "images"))
    return tmp_path / "images"


def photographs(folder: Path, count: int = 2) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        write_png(
            torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i)), folder / f"{i}.png"
        )


def test_dreambench_is_the_papers_size() -> None:
    suite = suites.load("dreambench")
    classes = [s.class_ for s in suite.subjects]
    assert (len(classes), classes.count("live")) == (30, 9)
    kinds = [p.kind for p in suite.by_class["live"]]
    assert [kinds.count(k) for k in ("recontextualisation", "accessorisation", "property")] == [
        10,
        10,
        5,
    ]
    kinds = [p.kind for p in suite.by_class["object"]]
    assert [kinds.count(k) for k in ("recontextualisation", "property")] == [20, 5]


@pytest.mark.parametrize("id", [i for i in suites.ids() if i.startswith("mini-")])
def test_mini_suites_are_complete_offline(id: str) -> None:
    suite = suites.load(id)
    assert suite.stands_for
    for subject in (suite.subjects[0], suite.subjects[-1]):
        read = subject.folder()
        assert read.name == subject.name
        assert read.concept.token == subject.token
        assert len(read.images) == len(read.captions) == len(read.files) >= 5
        assert suite.prompts_for(subject)
    names = [s.name for s in suite.subjects]
    assert len(set(names)) == len(names)


def test_subjects_of_the_mini_suites_are_held_out() -> None:
    from pcs_core import installed

    held_out = set(installed().get("datasets", "mini.held-out")().names())
    for id in suites.ids():
        for subject in suites.load(id).subjects if id.startswith("mini-") else ():
            assert set(subject.folder.args[2]) <= held_out  # type: ignore[union-attr]


def test_missing_pictures_say_where_to_get_them(images: Path) -> None:
    with pytest.raises(InputError, match=r"google/dreambooth.*CC-BY.*git clone") as caught:
        suites.load("dreambench").subjects[0].folder()
    assert str(images) in str(caught.value)
    with pytest.raises(InputError, match="unified test dataset"):
        suites.load("survey-face")


def test_a_changed_picture_is_refused(images: Path) -> None:
    for number in range(6):
        photographs(images / "dreambooth" / "backpack", 0) if number == 0 else None
        write_png(torch.zeros(3, 8, 8), images / "dreambooth" / "backpack" / f"{number:02d}.jpg")
    with pytest.raises(InputError, match=r"00\.jpg differs from the manifest"):
        suites.load("dreambench").subjects[0].folder()


def test_the_surveys_package_is_read_as_its_code_reads_it(images: Path) -> None:
    root = images / "pcs_dataset"
    photographs(root / "face" / "id00")
    face = {
        f"prompt_{k}": ["a photo of {0} {1} running"] * 10
        for k in ("accessory", "style", "action", "context")
    }
    face["id_with_gender"] = {f"id{i:02d}": "man" for i in range(15)}
    (root / "info.json").write_text(json.dumps({"face": face}))
    suite = suites.load("survey-face")
    assert (len(suite.subjects), len(suite.prompts_for(suite.subjects[0]))) == (15, 40)
    assert suite.prompts[0].text == "a photo of {token} {noun} running"
    assert len(suite.subjects[0].folder().images) == 2


def test_custom_diffusion_prompts_become_placeholders(images: Path) -> None:
    folder = images / "custom-diffusion" / "prompts"
    folder.mkdir(parents=True)
    (folder / "cat.txt").write_text("photo of a <new1> cat  \n<new1> cat in the sea")
    (folder / "cat_chair.txt").write_text("A chair and a cat\n")
    suite = suites.load("custom-10")
    of = {s.name: suite.prompts_for(s) for s in suite.subjects if s.name in ("cat", "cat_chair")}
    assert [p.text for p in of["cat"]] == ["photo of a {token} {noun}", "{token} {noun} in the sea"]
    assert of["cat_chair"][0].text == "A {token2} {noun2} and a {token} {noun}"


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    photographs(tmp_path / "mine" / "rex")
    with pytest.raises(InputError, match="has no noun"):
        suites.make(tmp_path / "mine")
    suite = suites.load(suites.make(tmp_path / "mine", ["rex=dog"], kind="pet"))
    assert suite.subjects[0].folder().concept.noun == "dog"
    assert len(suite.prompts_for(suite.subjects[0])) == 25
    write_png(torch.ones(3, 16, 16), tmp_path / "mine" / "rex" / "0.png")
    with pytest.raises(InputError, match="differs from the manifest"):
        suite.subjects[0].folder()


def test_an_unknown_suite_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match="mini-object"):
        suites.load("mini-objects")


COUNTS = {
    "survey-object": ("object", 47, 25),
    "survey-face": ("face", 15, 40),
    "dreambench": ("object", 30, 25),
    "dreambench-v2-like": ("object", 30, 220),
    "custom-10": ("object", 15, "own"),  # ten subjects and five pairs, with prompt files
    "stellar-like": ("face", "your", 100),
}


@pytest.mark.parametrize("id", list(COUNTS))
def test_counts_are_the_papers(id: str) -> None:
    from pcs_bench.suites.reading import declared

    counts = declared(id)
    assert (counts["kind"], counts["subjects"], counts["prompts"]) == COUNTS[id]


def test_prompts_of_identities_are_actions_and_contexts() -> None:
    from pcs_bench.suites import prompts

    kinds = [p.kind for p in prompts.prompts(["identity"])]
    assert len(kinds) == 100
    assert set(kinds) == {"action", "context"}


def test_the_surveys_package_with_other_counts_is_refused(images: Path) -> None:
    root = images / "pcs_dataset"
    root.mkdir(parents=True)
    face: dict[str, object] = {
        f"prompt_{k}": ["a photo of {0} {1}"] * 10
        for k in ("accessory", "style", "action", "context")
    }
    face["id_with_gender"] = {f"id{i:02d}": "man" for i in range(14)}
    (root / "info.json").write_text(json.dumps({"face": face}))
    with pytest.raises(InputError, match="lists 14 subjects, the survey has 15"):
        suites.load("survey-face")
    face["id_with_gender"] = {f"id{i:02d}": "man" for i in range(15)}
    face["prompt_style"] = ["a photo of {0} {1}"] * 9
    (root / "info.json").write_text(json.dumps({"face": face}))
    with pytest.raises(InputError, match="gives 39 prompts for face, the survey has 40"):
        suites.load("survey-face")


def test_the_surveys_objects_are_of_two_classes(images: Path) -> None:
    root = images / "pcs_dataset"
    root.mkdir(parents=True)
    listed = {f"s{i:02d}": ("dog" if i < 10 else "vase") for i in range(47)}
    (root / "info.json").write_text(json.dumps({"subjects": {"subject_with_cls": listed}}))
    suite = suites.load("survey-object")
    assert {s.class_ for s in suite.subjects} == {"live", "object"}
    assert len(suite.subjects) == 47
    assert all(len(suite.prompts_for(s)) == 25 for s in suite.subjects)
    with pytest.raises(InputError, match="unified test dataset"):
        suite.subjects[0].folder()


def test_every_suite_of_photographs_says_source_licence_layout_and_how() -> None:
    import tomllib

    from pcs_bench.suites.reading import DATA

    for id in COUNTS:
        images = tomllib.loads((DATA / f"{id}.toml").read_text())["images"]
        assert {"folder", "source", "licence", "layout", "how"} <= set(images), id
