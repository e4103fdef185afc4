"""Who is called when: the call order of each hook, as the engine registers the uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pluggy import PluginValidationError

from pcs_cli.meetings import meetings
from pcs_core.data.recipe import Recipe, Use
from pcs_core.errors import RecipeError
from pcs_core.hookspecs import RUN_HOOKS, run_manager
from pcs_core.technique import Technique


@dataclass(frozen=True, slots=True)
class HookCall:
    """One implementation of a hook.

    ``position`` is "tryfirst", "trylast" or "", ``where`` its ``"module:Class.method"``.
    """

    use: str
    technique: str
    wrapper: bool
    position: str
    where: str


@dataclass(frozen=True, slots=True)
class HookOrder:
    """The calls of one hook in order: wrappers from the outside in, then implementations."""

    hook: str
    calls: tuple[HookCall, ...]


@dataclass(frozen=True, slots=True)
class WordRow:
    """A word by which uses meet: its kind and name, who writes it, who reads it."""

    kind: str
    name: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a recipe does at each hook. Plain data: ``dataclasses.asdict`` gives JSON."""

    id: str
    name: str
    uses: tuple[str, ...]
    hooks: tuple[HookOrder, ...]
    words: tuple[WordRow, ...] = ()


def explain(recipe: Recipe, builtin: Sequence[Technique] = ()) -> Explanation:
    """Return the call order of each hook. ``builtin`` are the engine's own techniques.

    Raises
    ------
    RecipeError
        A technique's hook does not fit its specification.
    """
    manager = run_manager()
    engine_uses = tuple(Use(technique.id, technique) for technique in builtin)
    # pluggy calls what was registered last first: reversed, the first written is called first
    for use in reversed((*recipe.uses, *engine_uses)):
        try:
            manager.register(use.technique, use.name)
            manager.check_pending()
        except (PluginValidationError, ValueError) as error:
            text = " ".join(str(error).split())
            raise RecipeError(
                f"{use.name} ({use.technique.id}) cannot be registered: {text}"
            ) from error
    names = {use.name: use.technique for use in (*recipe.uses, *engine_uses)}
    hooks = []
    for hook in RUN_HOOKS:
        implementations = reversed(getattr(manager.hook, hook).get_hookimpls())
        calls = tuple(_call(impl, names[impl.plugin_name]) for impl in implementations)
        hooks.append(HookOrder(hook, calls))
    words = tuple(WordRow(*row) for row in meetings(recipe.uses, recipe.models))
    return Explanation(
        recipe.id, recipe.name, tuple(use.name for use in recipe.uses), tuple(hooks), words
    )


def _call(impl: object, technique: Technique) -> HookCall:
    function = impl.function  # type: ignore[attr-defined]
    first, last = impl.tryfirst, impl.trylast  # type: ignore[attr-defined]
    return HookCall(
        use=impl.plugin_name,  # type: ignore[attr-defined]
        technique=technique.id,
        wrapper=bool(impl.wrapper or impl.hookwrapper),  # type: ignore[attr-defined]
        position="tryfirst" if first else "trylast" if last else "",
        where=f"{function.__module__}:{function.__qualname__}",
    )
