"""What differs on a backbone: its profile, its family's files, its own, and where each number is from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pcs_core.assembly import load_recipe
from pcs_core.catalogue import Catalogue, FoundPlugin
from pcs_core.catalogue.holdings import Holdings
from pcs_core.data import Profile
from pcs_core.errors import RecipeError

RECIPE = """
[recipe]
id = "method"
scope = ["object"]
backbones = ["sd", "small"]
[[use]]
technique = "toy.shift"
rank = 8
[[use]]
technique = "toy.words"
identifier = "sks"
[[phase]]
name = "tune"
steps = 1000
[sample]
steps = 50
scale = 7.5
"""
PROFILES: dict[str, Profile] = {
    "small": Profile("small", steps=20, scale=3.0, rare_word="xqz"),
    "sd": Profile("sd", steps=99, rare_word="never"),
    "wide": Profile("wide", steps=28),
}


@pytest.fixture
def load(
    make: Callable[..., Catalogue], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Return a function that loads the recipe, with files of what differs, for a backbone."""
    make({"any": RECIPE.replace('"method"', '"any"')})  # the toys
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "x_words.py").write_text(
        "from pcs_core.technique import Technique\n"
        "class Words(Technique):\n"
        '    id = "toy.words"\n'
        '    profiled = {"identifier": "rare_word"}\n'
        '    identifier: str = "sks"\n'
    )
    monkeypatch.setitem(
        __import__("sys").modules,
        "x_profiles",
        SimpleNamespace(
            small=PROFILES["small"],
            sd=PROFILES["sd"],
            wide=PROFILES["wide"],
            family=lambda location: "sd" if str(location).endswith("an-sd-folder") else None,
        ),
    )

    def run(
        backbone: Any = None, *, recipe: str = RECIPE, overrides: Any = (), **files: str
    ) -> Any:
        tuning = {}
        for target, text in files.items():
            path = tmp_path / "tuning" / target / "method.toml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            tuning[target, "method"] = path
        file = tmp_path / "method.toml"
        file.write_text(recipe)
        nouns = {
            "techniques": {
                "toy.shift": "x_toys:Shift",
                "toy.wrap": "x_toys:Wrap",
                "toy.words": "x_words:Words",
            },
            "profiles": {id: f"x_profiles:{id}" for id in PROFILES},
            "families": {"some": "x_profiles:family"},
        }
        plugin = FoundPlugin("x", "x", "1", "x", None)
        catalogue = Catalogue([Holdings(plugin, nouns, {"method": file}, {}, tuning)])
        return load_recipe("method", backbone=backbone, overrides=overrides, catalogue=catalogue)

    return run


def numbers(recipe: Any) -> tuple[Any, ...]:
    """Return rank, word, steps of the phase, steps and scale of sampling."""
    shift, words = (use.technique for use in recipe.uses)
    sample = recipe.sample
    return shift.rank, words.identifier, recipe.phases[0].steps, sample.steps, sample.scale


def opened(id: str, family: str) -> Any:
    return SimpleNamespace(card=SimpleNamespace(id=id, family=family))


def test_the_numbers_are_of_the_first_backbone(load: Callable[..., Any]) -> None:
    assert numbers(load()) == (8, "sks", 1000, 50, 7.5)
    assert numbers(load(opened("mine", "sd"))) == (8, "sks", 1000, 50, 7.5)


def test_a_profile_is_laid_over_them_elsewhere(load: Callable[..., Any]) -> None:
    recipe = load(opened("small", "sd"))
    assert numbers(recipe) == (8, "xqz", 1000, 20, 3.0)
    assert recipe.origins["sample.steps"] == "profile small"
    assert recipe.origins["toy.words.identifier"] == "profile small"
    assert recipe.origins["toy.shift.rank"] == "method.toml:8"
    assert "toy.shift.alpha" not in recipe.origins  # a default
    assert numbers(load(opened("mine", "wide"))) == (8, "sks", 1000, 28, 7.5)


def test_an_empty_word_and_a_scale_of_one_are_the_methods(load: Callable[..., Any]) -> None:
    text = RECIPE.replace('"sks"', '""').replace("scale = 7.5", "scale = 1.0")
    assert numbers(load(opened("small", "sd"), recipe=text)) == (8, "", 1000, 20, 1.0)


def test_a_recipe_without_backbones_keeps_what_it_says(load: Callable[..., Any]) -> None:
    text = RECIPE.replace('backbones = ["sd", "small"]\n', "").replace("scale = 7.5\n", "")
    assert numbers(load(opened("small", "sd"), recipe=text)) == (8, "sks", 1000, 50, 3.0)


def test_family_then_id_then_set(load: Callable[..., Any]) -> None:
    files = {
        "sd": '[use."toy.shift"]\nrank = 2\n[phase.tune]\nsteps = 5\n',
        "mine": "[phase.tune]\nsteps = 6\n",
    }
    assert numbers(load(opened("other", "sd"), **files))[:3] == (2, "sks", 5)
    recipe = load(opened("mine", "sd"), overrides=["sample.scale=2.0"], **files)
    assert numbers(recipe) == (2, "sks", 6, 50, 2.0)
    assert recipe.origins["toy.shift.rank"] == "tuning/sd/method.toml:2"
    assert recipe.origins["tune.steps"] == "tuning/mine/method.toml:2"
    assert recipe.origins["sample.scale"] == "--set sample.scale=2.0"


def test_a_folder_gets_what_its_family_gets(load: Callable[..., Any], tmp_path: Path) -> None:
    files = {"sd": '[use."toy.shift"]\nrank = 2\n'}
    assert numbers(load(str(tmp_path / "an-sd-folder"), **files))[0] == 2
    assert numbers(load(str(tmp_path / "another"), **files))[0] == 8


def test_a_recipe_that_extends_gets_its_parents(load: Callable[..., Any], tmp_path: Path) -> None:
    load(mine="[phase.tune]\nsteps = 6\n")
    child = tmp_path / "child.toml"
    child.write_text('[recipe]\nid = "child"\nextends = "method"\n')
    catalogue = Catalogue(
        [
            Holdings(
                FoundPlugin("x", "x", "1", "x", None),
                {"techniques": {"toy.shift": "x_toys:Shift", "toy.words": "x_words:Words"}},
                {"method": tmp_path / "method.toml"},
                {},
                {("mine", "method"): tmp_path / "tuning" / "mine" / "method.toml"},
            )
        ]
    )
    assert load_recipe(child, backbone="mine", catalogue=catalogue).phases[0].steps == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[use."toy.shift"]\nrnk = 2\n', r"tuning/sd/method.toml:2: .*'rnk', did you mean 'rank'"),
        ("[phase.tun]\nsteps = 2\n", r"tuning/sd/method.toml:1: .*'tun', did you mean 'tune'"),
        ("[smple]\nsteps = 2\n", r"tuning/sd/method.toml:1: sd: unknown table 'smple'"),
        ("steps = \n", r"tuning/sd/method.toml:1: not valid TOML"),
        (
            'remove = ["toy.shft"]\n',
            r"removes 'toy.shft', which is no use, did you mean 'toy.shift'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    load: Callable[..., Any], text: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load("another", sd=text)  # checked also where it does not apply


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('scope = ["objct"]', r"method.toml:4: \[recipe\]: .*'object'"),
        ('framework = "TFT"', r"method.toml:4: \[recipe\]: .*'TTF'"),
        ("survey = 0", r"method.toml:4: \[recipe\]: .*'survey'"),
    ],
)
def test_facts_are_checked(load: Callable[..., Any], key: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe=RECIPE.replace('scope = ["object"]', key))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('technique = "lora"', r"method.toml:6: \[\[left_out\]\]: .*'reason'"),
        ('technique = "lora"\nreason = ""', r"method.toml:8: \[\[left_out\]\]: .*'reason'"),
        ('technique = "lora"\nreason = "Why."\nword = 1', r"method.toml:9: .*'word'"),
    ],
)
def test_a_difference_says_what_and_why(load: Callable[..., Any], table: str, message: str) -> None:
    recipe = RECIPE.replace("[[use]]", f"[[left_out]]\n{table}\n[[use]]", 1)
    with pytest.raises(RecipeError, match=message):
        load(recipe=recipe)
    single = RECIPE.replace("[[use]]", "[left_out]\nlora = 1\n[[use]]", 1)
    with pytest.raises(RecipeError, match=r"write \[\[left_out\]\]"):
        load(recipe=single)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[[source]]\ngave = "All."', r"method.toml:6: \[\[source\]\]: .*'what'"),
        ('[[departure]]\nwhat = "x"', r"method.toml:6: \[\[departure\]\]: .*'why'"),
        ('[[parity]]\nagainst = "x"\nwithin = -1.0', r"method.toml:8: \[\[parity\]\]: .*'within'"),
        (
            '[[parity]]\nagainst = "x"\nwithin = 1e-5\ntest = "test_it"',
            r"method.toml:9: \[\[parity\]\]: .*'test'",
        ),
    ],
)
def test_facts_of_fidelity_are_checked(load: Callable[..., Any], table: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe=RECIPE.replace("[[use]]", f"{table}\n[[use]]", 1))


def test_facts_of_fidelity_are_no_part_of_the_hash(load: Callable[..., Any]) -> None:
    facts = (
        '[[source]]\nwhat = "paper, section 3"\n[[departure]]\nwhat = "a"\nwhy = "b"\n'
        '[[parity]]\nagainst = "x"\nwithin = 1e-5\ntest = "tests/test_a.py::test_b"\n'
    )
    plain, with_facts = (
        load(recipe=RECIPE),
        load(recipe=RECIPE.replace("[[use]]", f"{facts}[[use]]", 1)),
    )
    assert with_facts.hash == plain.hash
    assert with_facts.document == plain.document
