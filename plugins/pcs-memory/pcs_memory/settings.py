"""The settings of a fit that spare memory, from the one that costs nothing to the one that costs most."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pcs_core.errors import InputError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True, slots=True)
class Setting:
    """How a fit holds its weights and activations: the options of ``pcs fit``."""

    precision: str = "fp32"
    checkpointing: bool = False

    @property
    def options(self) -> str:
        """What is written behind ``pcs fit``; "" where a fit needs none."""
        words = [] if self.precision == "fp32" else [f"--precision {self.precision}"]
        words += ["--gradient-checkpointing"] * self.checkpointing
        return " ".join(words)


LADDER = (
    Setting(),
    Setting(checkpointing=True),
    Setting("bf16"),
    Setting("bf16", checkpointing=True),
)
"""From exact and fast to what takes least."""


def read_memory(words: str) -> int:
    """Return the bytes of "12GB", "16 GiB" or "800MB".

    A card that is sold as one of 12 GB has 12 GiB, of which its driver keeps some: GB are 10^9 bytes.

    Raises
    ------
    InputError
        Not of that form.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", words, re.IGNORECASE)
    unit = "" if match is None else match[2].upper()
    if match is None or unit + "B" * (unit in ("K", "M", "G")) not in UNITS:
        raise InputError(f"--have {words}: write how much memory there is, as 12GB or 800MB")
    size = int(float(match[1]) * UNITS[unit + "B" * (unit in ("K", "M", "G"))])
    if size < 10**6:
        raise InputError(f"--have {words}: that is {size} bytes: say the unit, as {match[1]}GB")
    return size
