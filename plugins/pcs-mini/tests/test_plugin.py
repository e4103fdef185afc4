"""What the plugin holds, at what cost, and the shipped subjects."""

import subprocess
import sys

from pcs_mini import plugin
from pcs_mini.subjects import render_subjects, subject_table
from pcs_mini.world.roster import roster


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


def test_subjects_are_held_out_and_complete():
    people = roster()
    table = subject_table()
    assert set(plugin.subjects()) == set(table)
    assert len(table) >= 6
    assert sum(about["noun"] in people.nouns for about in table.values()) >= 3
    masked = 0
    for name, folder in plugin.subjects().items():
        assert not people.is_trained(table[name]["noun"], table[name]["style"])
        pictures = sorted(p for p in folder.glob("*.png") if not p.stem.endswith(".mask"))
        assert len(pictures) == 5
        assert (folder / "LICENSE").is_file()
        masked += all(p.with_suffix(".mask.png").exists() for p in pictures)
    assert masked >= 1


def test_subjects_are_what_the_code_renders(tmp_path):
    from PIL import Image, ImageChops

    render_subjects(tmp_path)
    for name, folder in plugin.subjects().items():
        for path in folder.glob("*.png"):
            shipped, fresh = Image.open(path), Image.open(tmp_path / name / path.name)
            assert ImageChops.difference(shipped, fresh).getbbox() is None, path


def test_places_have_phrases():
    places = plugin.places()
    assert places["beach"] == "on the beach"
    assert places["red"] == "on a red background"
    assert len(places) == 18
