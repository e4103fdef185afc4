"""The call order that `explain` tells is the order in which pluggy calls."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable

import pytest

from pcs_cli.hook_order import explain
from pcs_core.assembly import load_recipe
from pcs_core.catalogue import Catalogue
from pcs_core.errors import RecipeError
from pcs_core.hookspecs import RUN_HOOKS

Make = Callable[..., Catalogue]

TEXT = """
[recipe]
id = "r"
[[use]]
technique = "toy.shift"
name = "one"
[[use]]
technique = "toy.wrap"
[[use]]
technique = "toy.shift"
name = "two"
"""


def test_call_order(make: Make) -> None:
    recipe = load_recipe("r", catalogue=make({"r": TEXT}))
    denoise = importlib.import_module("x_toys").Denoise()
    explanation = explain(recipe, builtin=(denoise,))
    assert [order.hook for order in explanation.hooks] == list(RUN_HOOKS)
    orders = {order.hook: order.calls for order in explanation.hooks}
    assert [c.use for c in orders["fuse"]] == ["one", "two"]
    assert [(c.use, c.position) for c in orders["regularize"]] == [
        ("toy.wrap", "tryfirst"),
        ("one", ""),
        ("two", ""),
        ("core.denoise", "trylast"),
    ]
    assert [(c.use, c.wrapper) for c in orders["sample"]] == [
        ("toy.wrap", True),
        ("core.denoise", False),
    ]
    assert orders["sample"][0].where == "x_toys:Wrap.sample"
    assert orders["fuse"][1].technique == "toy.shift"
    assert orders["extract"] == ()
    assert json.loads(json.dumps(dataclasses.asdict(explanation)))["uses"] == [
        "one",
        "toy.wrap",
        "two",
    ]


def test_a_hook_that_does_not_fit_names_the_use(make: Make) -> None:
    recipe = load_recipe(
        "r", catalogue=make({"r": TEXT + '[[use]]\ntechnique = "toy.wrong"\nname = "bad"\n'})
    )
    with pytest.raises(RecipeError, match=r"^bad \(toy\.wrong\) cannot be registered: .*no_such"):
        explain(recipe)
