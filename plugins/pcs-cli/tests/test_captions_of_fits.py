"""Several captions a picture, captions that are left out, and pictures that are drawn more often."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcs_core import fit, load_recipe, load_subject
from pcs_core.errors import InputError, RecipeError
from pcs_core.hookspecs import hookimpl
from pcs_core.technique import Technique
from pcs_testing import make_recipe, make_subject
from pcs_testing.brief import brief_settings
from pcs_testing.probe import Probe

SEEN: list[tuple[str, int]] = []
SYSTEMS = ("textual-inversion", "lora-dreambooth", "dreambooth", "custom-diffusion", "mix-of-show")


class Spy(Technique):
    id = "test.captions_of_fits"

    @hookimpl
    def regularize(self, step: object) -> None:
        SEEN.extend(zip(step.batch.captions, step.batch.index, strict=True))  # type: ignore[attr-defined]


def drawn(subject: object, steps: int = 60, **changes: object) -> Counter:
    from pcs_core.data import Phase

    recipe = make_recipe([Spy(), Probe()], Phase("p", steps, batch={"subject": 4}, lr={"*": 1e-3}))
    SEEN.clear()
    fit(replace(recipe, **changes), subject, "tiny")  # type: ignore[arg-type]
    return Counter(SEEN)


@pytest.mark.rotated
def test_each_caption_of_a_picture_is_drawn(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    rex = tmp_path / "subjects" / "rex"
    (rex / "0.txt").write_text("a dog on sand\na dog in snow\n")
    plan = json.loads(pcs(*fit_arguments, "--dry-run", "--json").out)
    first, second = plan["subjects"][0]["pictures"]
    assert (first["caption"], first["alternatives"]) == ("a dog on sand", ["a dog in snow"])
    assert second["alternatives"] == []
    assert "alternatives" in pcs(*fit_arguments, "--dry-run").out
    done = pcs(*fit_arguments, "--no-preview")
    assert done.code == 0, done.err
    assert "rex/0.txt: caption of 0.png (its 2 captions are alternatives" in done.err
    counts = drawn(load_subject(rex, noun="dog", token="<rex>"))
    texts = [("a <rex> on sand", 0), ("a <rex> in snow", 0), ("a photo of <rex>", 1)]
    assert set(counts) == set(texts)
    assert min(counts[text] for text in texts[:2]) > 40  # of about 120 rows of the first picture


def test_alternatives_in_a_system_that_writes_around_them(subject: Callable) -> None:
    """A style's captions are made of the user's words, each of them."""
    one = replace(
        make_subject(captions=["a cat", None]), alternatives=(("a cup", "the <fido> itself"), ())
    )
    plain = load_recipe("styledrop", backbone="tiny")
    recipe = load_recipe("styledrop", backbone="tiny", overrides=brief_settings(plain, steps=30))
    spied = make_recipe(
        {"spy": Spy(), **{u.name: u.technique for u in recipe.uses}}, *recipe.phases
    )
    SEEN.clear()
    fit(spied, one, "tiny")
    said = {text for text, index in SEEN if index == 0}
    assert said == {"a cat in <fido> style", "a cup in <fido> style", "the <fido> itself"}


@pytest.mark.rotated
def test_the_share_of_captions_that_is_left_out() -> None:
    counts = drawn(make_subject(), 100, caption_dropout=0.25)
    share = sum(n for (text, _), n in counts.items() if not text) / sum(counts.values())
    assert 0.18 < share < 0.32
    assert not any(text == "" for text, _ in drawn(make_subject()))


@pytest.mark.rotated
@pytest.mark.parametrize("system", SYSTEMS)
def test_it_is_a_setting_of_every_system(
    pcs: Callable, subject: Callable, tmp_path: Path, system: str
) -> None:
    plain = load_recipe(system, backbone="tiny")
    settings = [w for s in brief_settings(plain) for w in ("--set", s)]
    words = ("--noun", "dog", "--token", "<rex>", "--backbone", "tiny", "--device", "cpu")
    command = ["fit", system, subject(), *words, *settings, "--no-preview"]
    for name, share in (("none", 0.0), ("some", 0.5), ("plain", None)):
        more = () if share is None else ("--set", f"fit.caption_dropout={share}")
        done = pcs(*command, *more, "--out", tmp_path / name)
        assert done.code == 0, done.err
    read = [(tmp_path / n / "weights.safetensors").read_bytes() for n in ("plain", "none", "some")]
    assert read[0] == read[1] != read[2]
    manifests = [json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("none", "some")]
    assert manifests[0]["recipe_hash"] != manifests[1]["recipe_hash"]
    assert "caption_dropout" not in manifests[0]["recipe"]["fit"]
    assert manifests[1]["recipe"]["fit"]["caption_dropout"] == 0.5


def test_where_there_is_no_caption(pcs: Callable, fit_arguments: list[object]) -> None:
    refused = pcs(*fit_arguments, "--set", "fit.caption_dropout=0.95")
    assert refused.code == 2
    assert "caption_dropout" in refused.err
    plan = pcs(*fit_arguments, "--set", "fit.caption_dropout=0.1", "--dry-run")
    assert "0.1 of the rows are shown without their caption" in plan.out
    recipe = load_recipe("dreamfusion", backbone="tiny", overrides=["fit.caption_dropout=0.1"])
    with pytest.raises(
        RecipeError, match="'dreamfusion' has no phase that shows pictures with captions"
    ):
        fit(recipe, make_subject(images=0), "tiny")


@pytest.mark.rotated
def test_repeats_are_how_often_a_picture_is_drawn(
    pcs: Callable, fit_arguments: list[object], tmp_path: Path
) -> None:
    rex = tmp_path / "subjects" / "rex"
    for index, name in enumerate(("10_sks dog", "1_other dog")):
        (rex / name).mkdir()
        (rex / f"{index}.png").rename(rex / name / "a.png")
    plan = pcs(*fit_arguments, "--dry-run")
    assert "repeats" in plan.out
    assert "each is drawn 10 times as often as one of 1_sks dog" in " ".join(plan.out.split())
    facts = json.loads(pcs(*fit_arguments, "--dry-run", "--json").out)
    assert [p["repeats"] for p in facts["subjects"][0]["pictures"]] == [10, 1]
    counts = drawn(load_subject(rex, noun="dog", token="<rex>"), 150)
    many, few = (sum(n for (_, i), n in counts.items() if i == index) for index in (0, 1))
    assert 6 < many / few < 16
    assert pcs(*fit_arguments, "--no-preview").code == 0


def test_equal_repeats_change_nothing() -> None:
    plain = make_subject()
    recipe = load_recipe("lora-dreambooth", backbone="tiny", overrides=["tune.steps=3"])
    (one,) = fit(recipe, plain, "tiny")
    (other,) = fit(recipe, replace(plain, repeats=(1, 1)), "tiny")
    assert all(torch.equal(one.tensors[k], v) for k, v in other.tensors.items())


def test_repeats_and_captions_that_cannot_be_meant() -> None:
    recipe = make_recipe([Probe()])
    for change, says in (
        ({"repeats": (1, 0)}, r"repeats\[1\]=0: give a whole number, 1 or more"),
        ({"repeats": (1,)}, "repeats has 1 entries for 2 images"),
        ({"alternatives": (("a",), (3,))}, r"alternatives\[1\] is 3: give text"),
    ):
        with pytest.raises(InputError, match=says):
            fit(recipe, replace(make_subject(), **change), "tiny")
