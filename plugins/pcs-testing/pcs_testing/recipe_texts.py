"""Recipes as text, for tests and trials of the command."""

from __future__ import annotations

Phase = tuple[str, int, float]
"""Name, steps, rate."""


def recipe_text(
    id: str, *techniques: str, phases: tuple[Phase, ...] = (("all", 2, 5e-2),), drawn: int = 3
) -> str:
    """Return a recipe.toml that uses ``techniques`` in their order and draws in ``drawn`` steps.

    Of several phases, all but the last train the first technique alone.
    """
    lines = [f'[recipe]\nid = "{id}"\n']
    lines += [f'[[use]]\ntechnique = "{technique}"\n' for technique in techniques]
    for number, (name, steps, rate) in enumerate(phases, start=1):
        lines.append(f'[[phase]]\nname = "{name}"\nsteps = {steps}\nlr = {rate!r}')
        lines.append(f'train = ["{techniques[0]}/*"]\n' if number < len(phases) else "")
    return "\n".join([*lines, f"[sample]\nsteps = {drawn}\nscale = 2.0\n"])
