"""What is wrong in a recipe is refused at its file and line, with the nearest valid word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pcs_core.assembly import load_recipe, recipe_from_document
from pcs_core.catalogue import Catalogue
from pcs_core.errors import InputError, PcsError, RecipeError, UnknownNameError

Make = Callable[..., Catalogue]

HEAD = '[recipe]\nid = "r"\n[[use]]\ntechnique = "toy.shift"\n'
PHASE = HEAD + '[[phase]]\nname = "p"\nsteps = 1\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[recipe\n", "r.toml:1: not valid TOML: "),
        ('[recipe]\nid = "r"\nid = "s"\n', "r.toml:3: not valid TOML: "),
        ("", "r.toml: no [recipe] table"),
        ('use = []\n[recipe]\nid = "r"\n', "r.toml:2: recipe 'r' uses no technique"),
        ('[recipe]\nid = "R r"\n' + HEAD[18:], "r.toml:2: [recipe]: setting 'id'"),
        ('[recipe]\nid = "q"\n' + HEAD[18:], "r.toml:2: id 'q' is not the name of its file, 'r'"),
        ('[recipe]\nname = "x"\n' + HEAD[18:], "r.toml:1: [recipe]: setting 'id': field required"),
        (
            '[recipe]\nid = "r"\nframe = "TTF"\n' + HEAD[18:],
            "r.toml:3: [recipe]: unknown setting 'frame', did you mean 'framework'?",
        ),
        (
            '[recipe]\nid = "r"\nframework = "ttf"\n' + HEAD[18:],
            "r.toml:3: [recipe]: setting 'framework'",
        ),
        (HEAD + "[smaple]\n", "r.toml:5: unknown table or key 'smaple', did you mean 'sample'?"),
        ("top = 1\n" + HEAD, "r.toml:1: unknown table or key 'top'"),
        (
            HEAD + "[sample]\nstep = 3\n",
            "r.toml:6: [sample]: unknown setting 'step', did you mean 'steps'?",
        ),
        (HEAD + "[sample]\nsteps = 0\n", "r.toml:6: [sample]: setting 'steps'"),
        (HEAD + "[sample]\nscale = -1\n", "r.toml:6: [sample]: setting 'scale'"),
        (HEAD + "[sample]\nscale = nan\n", "r.toml:6: scale: nan is not allowed"),
        (HEAD + '[sample]\nsteps = "5"\n', "r.toml:6: [sample]: setting 'steps'"),
        (HEAD + "[fit]\ncycle = 1\n", "r.toml:6: [fit]: unknown setting 'cycle'"),
        (HEAD + "rnk = 2\n", "r.toml:5: toy.shift: unknown setting 'rnk', did you mean 'rank'?"),
        (
            HEAD + '\n[[use]]\ntechnique = "toy.wrap"\nwieght = 1\n',
            "r.toml:8: toy.wrap: unknown setting 'wieght', did you mean 'weight'?",
        ),
        (HEAD + "alpha = 1\nrank = 0\n", "r.toml:6: toy.shift: setting 'rank'"),
        (HEAD + 'rank = "7"\n', "r.toml:5: toy.shift: setting 'rank'"),
        (HEAD + 'parts = ["q"]\n', "r.toml:5: toy.shift: setting 'parts.0'"),
        (HEAD + "alpha = inf\n", "r.toml:5: alpha: inf is not allowed"),
        (HEAD + "label = 2020-01-01\n", "r.toml:5: label: a date is not allowed"),
        (HEAD + "[[use]]\nrank = 2\n", "r.toml:5: [[use]] without a technique"),
        (HEAD + "[[use]]\ntechnique = 3\n", "r.toml:6: [[use]] technique must be text"),
        (
            HEAD + '[[use]]\ntechnique = "toy.shft"\n',
            "r.toml:6: no technique 'toy.shft', did you mean 'toy.shift'?",
        ),
        (
            HEAD + '[[use]]\ntechnique = "toy.absent"\n',
            "r.toml:6: technique 'toy.absent' of x-toys",
        ),
        (HEAD + '[[use]]\ntechnique = "toy.plain"\n', "r.toml:6: technique 'toy.plain'"),
        (HEAD + '[[use]]\ntechnique = "toy.liar"\n', "calls itself 'toy.other'"),
        (HEAD + '[[use]]\ntechnique = "toy.named"\n', "has a setting 'name', a word that recipes"),
        (
            HEAD + '[[use]]\ntechnique = "toy.shift"\n',
            "r.toml:5: two uses are called 'toy.shift' (the other at r.toml:3)",
        ),
        (HEAD + 'name = "a/b"\n', "r.toml:5: a use may not be called 'a/b'"),
        ('[recipe]\nid = "r"\n[use]\ntechnique = "toy.shift"\n', "r.toml:3: use must be a list"),
        (HEAD + "[phase.x]\nsteps = 1\n", "phase must be a list of tables"),
        (HEAD + "[[phase]]\nsteps = 1\n", "r.toml:5: [[phase]] without a name"),
        (HEAD + '[[phase]]\nname = "p"\n', "r.toml:5: phase 'p': setting 'steps': field required"),
        (
            PHASE + '[[phase]]\nname = "p"\nsteps = 1\n',
            "r.toml:8: two phases are called 'p' (the other at r.toml:5)",
        ),
        (HEAD + '[[phase]]\nname = "sample"\nsteps = 1\n', "r.toml:6: 'sample' cannot be the name"),
        (
            PHASE + "setps = 1\n",
            "r.toml:8: [[phase]]: unknown setting 'setps', did you mean 'steps'?",
        ),
        (PHASE.replace("steps = 1", "steps = -1"), "r.toml:7: phase 'p': setting 'steps'"),
        (PHASE.replace("steps = 1", "steps = 1.5"), "r.toml:7: phase 'p': setting 'steps'"),
        (PHASE.replace("steps = 1", "steps = true"), "r.toml:7: phase 'p': setting 'steps'"),
        (PHASE + "batch = 0\n", "r.toml:8: phase 'p': setting 'batch.subject'"),
        (PHASE + "batch = {}\n", "r.toml:8: phase 'p': setting 'batch'"),
        (PHASE + "lr = 0\n", "r.toml:8: phase 'p': setting 'lr.*'"),
        (PHASE + 'lr = { "*" = "fast" }\n', "r.toml:8: phase 'p': setting 'lr.*'"),
        (PHASE + 'train = "toy.*"\n', "r.toml:8: phase 'p': setting 'train'"),
        (PHASE + "betas = [0.9]\n", "r.toml:8: phase 'p': setting 'betas"),
        (PHASE + "betas = [0.9, 1]\n", "r.toml:8: phase 'p': setting 'betas.1'"),
        (PHASE + "clip = -1\n", "r.toml:8: phase 'p': setting 'clip'"),
        (
            HEAD + "[backbone.mini.smaple]\n",
            "r.toml:5: [backbone.mini]: unknown table 'smaple', did you mean 'sample'?",
        ),
        (
            HEAD + "[backbone.mini.sample]\nstep = 1\n",
            "r.toml:6: [sample]: unknown setting 'step', did you mean 'steps'?",
        ),
        (
            HEAD + '[backbone.mini.use."toy.shfit"]\n',
            "r.toml:5: [backbone.mini.use.\"toy.shfit\"]: no use 'toy.shfit', did you mean",
        ),
        (
            HEAD + "[backbone.mini.use.toy.shift]\nrank = 1\n",
            'a name with a dot is quoted: "toy.shift"',
        ),
        (
            HEAD + '[backbone.mini.use."toy.shift"]\nrnk = 1\n',
            "r.toml:6: toy.shift: unknown setting 'rnk', did you mean 'rank'?",
        ),
        (
            HEAD + '[backbone.mini.use."toy.shift"]\ntechnique = "toy.wrap"\n',
            "may not change the technique",
        ),
        (PHASE + "[backbone.mini.phase.q]\nsteps = 1\n", "no phase 'q' (known: p)"),
        (
            PHASE + "[backbone.mini.phase.p]\nstep = 1\n",
            "r.toml:9: [[phase]]: unknown setting 'step', did you mean 'steps'?",
        ),
    ],
)
def test_refused_at_its_place(make: Make, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("r", catalogue=make({"r": text}))
    assert message in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_of_a_backbone_table_is_blamed_there(make: Make) -> None:
    catalogue = make({"r": HEAD + '[backbone.mini.use."toy.shift"]\nrank = 0\n'})
    load_recipe("r", catalogue=catalogue)
    with pytest.raises(RecipeError, match=r"^r\.toml:6: toy\.shift: setting 'rank'"):
        load_recipe("r", backbone="mini", catalogue=catalogue)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("steps", InputError, "--set 'steps': write KEY=VALUE"),
        ("=3", InputError, "write KEY=VALUE"),
        (
            "toy.shift.rnk=3",
            UnknownNameError,
            "no setting 'toy.shift.rnk', did you mean 'toy.shift.rank'",
        ),
        ("p.step=3", UnknownNameError, "did you mean 'p.steps'?"),
        ("sample.stepz=3", UnknownNameError, "did you mean 'sample.steps'?"),
        ("p.name=q", UnknownNameError, "no setting 'p.name'"),
        ("toy.shift.technique=toy.wrap", UnknownNameError, "no setting 'toy.shift.technique'"),
        (
            "toy.shift.rank=zero",
            RecipeError,
            "--set toy.shift.rank=zero: toy.shift: setting 'rank'",
        ),
        ("toy.shift.rank=0", RecipeError, "--set toy.shift.rank=0: toy.shift: setting 'rank'"),
        ("p.lr=-1", RecipeError, "--set p.lr=-1: phase 'p': setting 'lr.*'"),
        ("sample.steps=1\nscale=3", RecipeError, "setting 'steps'"),
        ("sample.scale=inf", InputError, "inf is not allowed"),
    ],
)
def test_overrides_that_do_not_fit(
    make: Make, override: str, error: type[PcsError], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        load_recipe("r", overrides=[override], catalogue=make({"r": PHASE}))


def test_unknown_systems_and_files(make: Make, tmp_path: Path) -> None:
    catalogue = make({"custom": HEAD})
    with pytest.raises(UnknownNameError, match=r"no system 'custum', did you mean 'custom'\?"):
        load_recipe("custum", catalogue=catalogue)
    with pytest.raises(InputError, match=r"no recipe file here, did you mean 'custom\.toml'"):
        load_recipe(tmp_path / "recipes" / "custm.toml", catalogue=catalogue)
    with pytest.raises(InputError, match="is a folder, not a recipe"):
        load_recipe(tmp_path, catalogue=catalogue)
    (tmp_path / "latin.toml").write_bytes('[recipe]\nid = "é"'.encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "latin.toml", catalogue=catalogue)


def test_extends_one_level_and_what_exists(make: Make) -> None:
    child = '[recipe]\nid = "{}"\nextends = "{}"\n'
    catalogue = make(
        {
            "r": HEAD,
            "a": child.format("a", "r"),
            "b": child.format("b", "a"),
            "c": child.format("c", "x"),
        }
    )
    load_recipe("a", catalogue=catalogue)
    with pytest.raises(RecipeError, match=r"^b\.toml:3: a\.toml extends another recipe itself"):
        load_recipe("b", catalogue=catalogue)
    with pytest.raises(RecipeError, match=r"^c\.toml:3: extends: no system 'x'"):
        load_recipe("c", catalogue=catalogue)


def test_a_document_that_is_no_recipe(make: Make) -> None:
    catalogue = make({"r": PHASE})
    document = dict(load_recipe("r", catalogue=catalogue).document)
    document["use"] = [{"technique": "toy.gone", "name": "x"}]
    with pytest.raises(RecipeError, match=r"^there: no technique 'toy\.gone'"):
        recipe_from_document(document, catalogue=catalogue, place="there")
    with pytest.raises(RecipeError, match=r"^there: unknown table or key 'more'"):
        recipe_from_document({**document, "more": 1}, catalogue=catalogue, place="there")
