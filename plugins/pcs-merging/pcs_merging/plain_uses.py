"""What a use does in a drawing, read from what its technique declares: no list of techniques is kept.

A use is plain where it acts in proportion to tensors of its own, or gives a word, and that is all: it reads and
writes nothing under a name, asks for no layout, and takes no part in sampling steps. It rewrites where it makes
edits that have a layer's weight to themselves.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pcs_core.data import Edit, InjectEdit, ReplaceEdit, WeightEdit

if TYPE_CHECKING:
    from pcs_core.data import Use
    from pcs_core.technique import Technique

RARE_WORD = "rare_word"
"""Number of a backbone's profile: who takes it in names the subject by a word that was always there."""


def acts(use: Use) -> bool:
    """Return whether the use has any part in a drawing."""
    return any(hasattr(use.technique, hook) for hook in ("fuse", "sample"))


def is_plain(use: Use) -> bool:
    """Return whether all that the use does in a drawing lies in its own tensors and words."""
    technique = use.technique
    words = technique.words()
    if hasattr(technique, "sample") or technique.reads_layout or technique.reads_picture:
        return False
    if words.reads or words.may_read or words.writes:
        return False
    return bool(technique.weighs) or rewrites(use) or RARE_WORD in type(technique).profiled.values()


def rare_word(use: Use) -> str:
    """Return the rare word by which the use names its subject, "" for none."""
    settings = [name for name, field in type(use.technique).profiled.items() if field == RARE_WORD]
    return str(getattr(use.technique, settings[0])) if settings else ""


def rewrites(use: Use) -> bool:
    """Return whether the use's edits have the weights of their layers to themselves."""
    return any(
        issubclass(kind, ReplaceEdit | InjectEdit)
        or (issubclass(kind, WeightEdit) and kind.weight is not WeightEdit.weight)
        for kind in edits_in_sight(type(use.technique))
    )


def edits_in_sight(technique: type[Technique]) -> tuple[type[Edit], ...]:
    """Return the classes of edits that the module of a technique, or of a base of it, makes or imports."""
    modules = {cls.__module__ for cls in technique.__mro__} & set(sys.modules)
    return tuple(
        value
        for module in sorted(modules)
        for value in vars(sys.modules[module]).values()
        if isinstance(value, type) and issubclass(value, Edit)
    )
