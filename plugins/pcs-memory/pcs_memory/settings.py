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
    quantize: str = ""
    offload: str = ""

    @property
    def options(self) -> str:
        """What is written behind ``pcs fit``; "" where a fit needs none."""
        words = [] if self.precision == "fp32" else [f"--precision {self.precision}"]
        words += ["--gradient-checkpointing"] * self.checkpointing
        words += [f"--quantize {self.quantize}"] * bool(self.quantize)
        words += [f"--offload {self.offload}"] * bool(self.offload)
        return " ".join(words)


LADDER = (
    Setting(),
    Setting(checkpointing=True),
    Setting("bf16"),
    Setting("bf16", checkpointing=True),
    Setting("bf16", checkpointing=True, quantize="bf16"),
    Setting("bf16", checkpointing=True, quantize="bf16", offload="model"),
)
"""From exact and fast to what takes least."""


def check_setting(setting: Setting) -> None:
    """Refuse a way to store weights, or to keep them aside, whose memory is not found here.

    Raises
    ------
    InputError
        Names it and those that are.
    """
    if setting.quantize not in ("", "bf16", "fp16"):
        raise InputError(
            f"--quantize {setting.quantize}: what libraries pack is not run here: bf16 or fp16"
        )
    if setting.offload not in ("", "model"):
        raise InputError(f"--offload {setting.offload}: what it takes is known of model alone")


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
