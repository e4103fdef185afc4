"""What the plugin holds, at what cost, and the shipped subjects."""

import subprocess
import sys

import pytest
from PIL import Image, ImageChops

from pcs_core import load_subject
from pcs_core.errors import InputError
from pcs_mini import plugin
from pcs_mini.held_out import Studio
from pcs_mini.subjects import render_subjects, subject_table
from pcs_mini.world.assets import SLICE_FILE, Assets
from pcs_mini.world.backdrops import known
from pcs_mini.world.population import core


def test_listing_and_help_import_no_torch():
    code = (
        "import sys, pcs_mini.plugin as p, pcs_mini.commands as c\n"
        "from typer.testing import CliRunner\n"
        "p.backbones(); p.datasets(); p.subjects(); p.places()\n"
        "r = CliRunner().invoke(c.app, ['train', '--help'])\n"
        "assert r.exit_code == 0, r.output\n"
        "assert 'torch' not in sys.modules and 'diffusers' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_references_resolve():
    import importlib

    for hook in (plugin.backbones, plugin.feature_models, plugin.datasets, plugin.commands):
        for reference in hook().values():
            module, attribute = reference.split(":")
            assert hasattr(importlib.import_module(module), attribute), reference


KINDS = {
    "dog_pug": "object",
    "bear_teddy": "object",
    "person_curly": "face",
    "style_outlined": "style",
}


def test_subjects_are_held_out_and_complete():
    held_out = set(Studio(Assets(SLICE_FILE)).names())
    table = subject_table()
    assert set(plugin.subjects()) == set(table)
    for name, folder in plugin.subjects().items():
        subject = load_subject(folder)
        assert [c.name for c in subject.concepts] == [c["name"] for c in table[name]]
        assert {m for c in table[name] for m in c["members"]} <= held_out
        assert len(subject.images) >= 5
        assert all(image.shape == (3, 128, 128) for image in subject.images)
        assert all(
            any(c.token in caption for c in subject.concepts) for caption in subject.captions
        )
        assert (folder / "LICENSE").is_file()
        style = subject.concept.kind == "style"
        for concept in subject.concepts:
            masks = subject.masks.get(concept.name, ())
            assert style or (len(masks) == len(subject.images) and None not in masks)
        if name in KINDS:
            assert subject.concept.kind == KINDS[name]
    assert any(len(concepts) == 2 for concepts in table.values())


def test_nouns_of_subjects_are_words_that_are_trained_first():
    known = {*core(), "person", "drawing"}
    for concepts in subject_table().values():
        assert all(c["noun"] in known for c in concepts)


def test_subjects_are_what_the_code_renders(tmp_path):
    render_subjects(tmp_path)
    for name, folder in plugin.subjects().items():
        names = {path.name for path in folder.iterdir()}
        assert names == {path.name for path in (tmp_path / name).iterdir()}
        for path in folder.iterdir():
            fresh = tmp_path / name / path.name
            if path.suffix == ".png":
                shipped, drawn = Image.open(path), Image.open(fresh)
                assert ImageChops.difference(shipped, drawn).getbbox() is None, path
            else:
                assert path.read_bytes() == fresh.read_bytes(), path


def test_a_trained_member_is_no_subject(tmp_path, monkeypatch):
    table = {"dog": [{"name": "dog", "members": ["dog/flat"], "noun": "dog"}]}
    monkeypatch.setattr("pcs_mini.subjects.subject_table", lambda: table)
    with pytest.raises(InputError, match="dog/flat, which training draws"):
        render_subjects(tmp_path)


def test_places_have_phrases():
    places = plugin.places()
    assert places["beach"] == "on the beach"
    assert places["orange"] == "on an orange background"
    assert places["woods"] == "in the woods"
    assert set(places) == set(known(Assets(SLICE_FILE)))
