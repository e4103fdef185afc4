"""``--weights``: weights of words in prompts; those that cannot be read are refused before anything opens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pcs_core.errors import InputError, nearest

if TYPE_CHECKING:
    from pcs_core.data import Personalization, Use

WEIGHTS = "tokens.prompt_weights"
"""The technique that reads weights in prompts."""


def read_weights(syntax: str | None) -> tuple[list[str], list[str]]:
    """Return the technique that reads weights of words in ``syntax``, and what changes its settings.

    Raises
    ------
    InputError
        No such syntax.
    """
    known = ("a1111", "compel", "off")
    if syntax is not None and syntax not in known:
        raise InputError(
            f"--weights {syntax}: unknown syntax{nearest(syntax, known)} ({', '.join(known)})"
        )
    if syntax in (None, "off"):
        return [], []
    return [WEIGHTS], [f"{WEIGHTS}.syntax={syntax}"]


def check_weights(
    prompts: Sequence[str], personalization: Personalization | None, added: Sequence[Use]
) -> None:
    """Refuse prompts that a use of the drawing, of its recipe or ``added`` to it, cannot read.

    Raises
    ------
    InputError
        Names the prompt, and what of it is not read.
    """
    from pcs_core.backbone.tokens import weighed_parts
    from pcs_core.backbone.written import composed
    from pcs_core.catalogue import service

    uses = (*(personalization.recipe.uses if personalization else ()), *added)
    read = [getattr(u.technique, "syntax", "off") for u in uses if u.technique.id == WEIGHTS]
    syntaxes = service("weight_syntaxes") if any(one != "off" for one in read) else {}
    concepts = personalization.concepts if personalization else ()
    for syntax in read:
        for prompt in prompts if syntax in syntaxes else ():
            weighed_parts(syntaxes[syntax], composed(prompt), [composed(c.token) for c in concepts])
