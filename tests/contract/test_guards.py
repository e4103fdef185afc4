"""Mistakes in a technique that would be silent are refused when its class is made."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pluggy
import pytest
from pydantic import Field

from pcs_core.data import Fusion
from pcs_core.errors import RecipeError
from pcs_core.hookspecs import RUN_HOOKS, hookimpl, run_manager
from pcs_core.technique import Technique


@pytest.mark.parametrize("hook", RUN_HOOKS)
def test_a_hook_without_its_marker(hook: str) -> None:
    with pytest.raises(TypeError, match=f"{hook} is the name of a hook: mark it"):
        type("Wrong", (Technique,), {"id": "x.y", hook: lambda self: None})


def test_an_override_without_the_marker() -> None:
    class Base(Technique):
        id = "x.base"

        @hookimpl
        def fuse(self) -> Fusion:
            return Fusion()

    with pytest.raises(TypeError, match="fuse is the name of a hook"):

        class Child(Base):
            id = "x.child"

            def fuse(self) -> Fusion:
                return Fusion()


@pytest.mark.parametrize("hook", RUN_HOOKS)
def test_a_setting_with_the_name_of_a_hook(hook: str) -> None:
    with pytest.raises(TypeError, match=f"{hook} is the name of a hook"):
        type("Wrong", (Technique,), {"id": "x.y", hook: 3, "__annotations__": {hook: int}})


def test_an_init_of_its_own() -> None:
    with pytest.raises(TypeError, match="__init__ of its own"):

        class Wrong(Technique):
            def __init__(self) -> None: ...


def test_a_setting_that_starts_with_an_underscore() -> None:
    with pytest.raises(TypeError, match="_cache: a setting may not start with an underscore"):

        class Wrong(Technique):
            _cache: int = 0


def test_a_value_without_annotation() -> None:
    with pytest.raises(TypeError, match="rank has no annotation"):

        class Wrong(Technique):
            rank = 4


def test_constants_helpers_and_properties_are_allowed() -> None:
    class Fine(Technique):
        id = "x.fine"
        LIMIT: ClassVar[int] = 3
        _TABLE: ClassVar[dict[str, int]] = {}
        rank: Annotated[int, Field(ge=1)] = 4

        @property
        def double(self) -> int:
            return 2 * self.rank

        def helper(self) -> int:
            return self.LIMIT

    fine = Fine(rank=2)
    assert (fine.double, fine.helper()) == (4, 3)
    assert Fine.setting_names() == ("rank",)


class Typed(Technique):
    """A technique with a setting of each type."""

    id = "x.typed"
    count: Annotated[int, Field(ge=1)] = 4
    """How many."""
    weight: float = 1.0
    on: bool = False
    parts: tuple[str, ...] = ()
    word: str = ""


@pytest.mark.parametrize(
    "settings",
    [
        {"count": "7"},
        {"count": 7.0},
        {"count": True},
        {"count": 0},
        {"on": 1},
        {"parts": "k"},
        {"word": 3},
        {"weight": "1.0"},
        {"weight": float("nan")},
        {"rnk": 1},
        {"word": object()},
    ],
)
def test_settings_are_read_strictly(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml:12: x\.typed: "):
        Typed.from_settings(settings, place="recipe.toml:12")


def test_a_list_serves_as_a_tuple_and_an_integer_as_a_float() -> None:
    made = Typed.from_settings({"parts": ["k", "v"], "weight": 1})
    assert made.parts == ("k", "v")
    assert made.weight == 1.0


def test_help_texts_are_inherited() -> None:
    class Child(Typed):
        id = "x.child"
        more: int = 0
        """More."""

    assert Child.setting_help() == {"count": "How many.", "more": "More."}
    assert Child.setting_names() == ("count", "weight", "on", "parts", "word", "more")


def test_equal_instances_register_side_by_side() -> None:
    manager = run_manager()
    manager.register(Typed(), name="one")
    manager.register(Typed(), name="two")
    assert Typed() != Typed()
    assert len({Typed(), Typed()}) == 2


def test_a_hook_with_an_unknown_argument_does_not_register() -> None:
    class Wrong(Technique):
        id = "x.wrong"

        @hookimpl
        def fuse(self, no_such_argument: Any) -> None: ...

    with pytest.raises(pluggy.PluginValidationError, match="no_such_argument"):
        run_manager().register(Wrong())


def test_a_sixth_hook_does_not_pass_unnoticed() -> None:
    class Wrong(Technique):
        id = "x.sixth"

        @hookimpl
        def fues(self) -> None: ...

    manager = run_manager()
    manager.register(Wrong())
    with pytest.raises(pluggy.PluginValidationError, match="fues"):
        manager.check_pending()
