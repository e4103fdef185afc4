"""The words of ``--strength``: how strongly each artifact, or a use of one, acts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pcs_core.errors import InputError


def numbers_by_name(words: Sequence[str]) -> dict[str, float]:
    """Return name -> value of the words ``NAME=VALUE``.

    Raises
    ------
    InputError
        Not of this form, no finite number, or a name given twice.
    """
    numbers: dict[str, float] = {}
    for word in words:
        name, _, text = word.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not name.strip() or not math.isfinite(value):
            raise InputError(f"--strength {word}: write NAME=VALUE with a number, as style=0.5")
        if name.strip() in numbers:
            raise InputError(f"--strength {name.strip()} is given twice")
        numbers[name.strip()] = value
    return numbers
