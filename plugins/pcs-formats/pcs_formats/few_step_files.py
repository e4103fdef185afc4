"""LoRAs that were distilled to draw in a few steps: how their releases are drawn, as far as their names say it.

LCM-LoRA (arXiv:2311.05556), Hyper-SD (arXiv:2404.13686) and SDXL-Lightning (arXiv:2402.13929) are files like
any LoRA: nothing in their tensors says with which scheduler, how many steps and which guidance they draw. Their
names do. The numbers are those of the releases' model cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from pcs_formats.contents import Contents
    from pcs_formats.reading import Reading

FLOWS = ("sd3", "flux")
"""Families whose networks predict flow: their own scheduler draws."""
TIME = "time_emb_proj"
"""A layer that few-step distillations move, and few other LoRAs."""
WEIGHED = 0.125
"""The weight that Hyper-SD's cards name for SD 3 and FLUX.1."""
TITLES = ("modelspec.title", "ss_output_name")
"""Entries of kohya's metadata that hold a name."""


class Release(NamedTuple):
    """A distillation: how its names are recognised, its scheduler, and its steps where a name says none."""

    title: str
    names: re.Pattern[str]
    scheduler: str
    steps: int


RELEASES = (
    Release("LCM-LoRA", re.compile(r"(?<![a-z])lcm(?![a-z])", re.IGNORECASE), "lcm", 4),
    Release("Hyper-SD", re.compile(r"hyper-?(sd|flux)", re.IGNORECASE), "ddim-trailing", 8),
    Release(
        "SDXL-Lightning",
        re.compile(r"(?<![a-z])lightning(?![a-z])", re.IGNORECASE),
        "euler-trailing",
        4,
    ),
)
STEPS = re.compile(r"(\d+)-?_?steps?(?![a-z])", re.IGNORECASE)
GUIDED = re.compile(r"(?<![a-z])cfg(?![a-z])", re.IGNORECASE)
"""What the names of Hyper-SD's files hold that were distilled with guidance kept."""
GUIDANCE = 5.0
"""Guidance scale of those: their card says 5 to 8."""


def names_of(path: Path, metadata: Mapping[str, str]) -> list[str]:
    """Return what a file is called: by name, metadata, folder, and its repository in the hub's cache."""
    cached = [part for part in path.absolute().parts[:-2] if part.startswith("models--")]
    said = [metadata[key] for key in TITLES if metadata.get(key)]
    return [path.stem, *said, path.absolute().parent.name, *cached]


def add_few_steps(contents: Contents, layers: Sequence[str], family: str, reading: Reading) -> None:
    """Set how a few-step LoRA is drawn, by its release's card, and note it; or say that it cannot be told."""
    for name in names_of(contents.path, contents.metadata):
        release = next((r for r in RELEASES if r.names.search(name)), None)
        if release is not None:
            reading.sample = numbers_of(release, name, family)
            note_release(release, name, family, reading)
            return
    if any(layer.replace(".", "_").endswith(TIME) for layer in layers):
        reading.notes.append(
            "it moves the layers that tell the network the time, as LoRAs do that were distilled to draw in a "
            "few steps; nothing in a file says so, and no name here says LCM, Hyper-SD or Lightning. If it is "
            "one, draw as its release says (LCM: --scheduler lcm --steps 4 --scale 1)"
        )


def numbers_of(release: Release, name: str, family: str) -> dict[str, Any]:
    """Return steps, guidance scale and scheduler of a release's file."""
    match = STEPS.search(name)
    steps = int(match[1]) if match else release.steps
    scale = GUIDANCE if GUIDED.search(name) else 1.0
    said: dict[str, Any] = {"steps": steps, "scale": scale}
    return said if family in FLOWS else {**said, "scheduler": release.scheduler}


def note_release(release: Release, name: str, family: str, reading: Reading) -> None:
    """Note what was read from the name, and what the release asks for that is not set."""
    said = ", ".join(f"{key} {value}" for key, value in reading.sample.items())
    reading.facts["few steps"] = f"{release.title}: {said}"
    reading.notes.append(
        f"its name ({name!r}) says {release.title}: it is drawn with {said}, as released; --steps, --scale and "
        "--scheduler say other numbers"
    )
    if release.title == "Hyper-SD" and family in FLOWS:
        reading.notes.append(
            f"Hyper-SD's LoRAs of this family are weighed {WEIGHED}: --strength lora={WEIGHED}"
        )
    if reading.sample["steps"] == 1:
        reading.notes.append(
            "files of one step were distilled for a first time of their own, which no scheduler here begins "
            "at: take one of 2 steps or more"
        )
