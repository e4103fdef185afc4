"""What this package reads of a deployment folder that ``pcs export --to onnx`` wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_core.small_files import inside, read_json


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph: its file, the sha256 of its files by name, its inputs in order, and the most rows."""

    name: str
    file: Path
    hashes: dict[str, str]
    inputs: tuple[dict[str, Any], ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Deployment:
    """A folder: its graphs by name, element type, and the latents' shape [c h w]."""

    folder: Path
    graphs: dict[str, Graph]
    dtype: str
    latents: tuple[int, ...]
    step: int
    """What divides the sides of latents where the graphs take any size; 0 for one size only."""


def read(folder: Path) -> Deployment:
    """Read the manifest of ``folder``.

    Raises
    ------
    InputError
        It is no deployment.
    """
    try:
        facts = read_json(folder / "manifest.json", most=2**26)
        if not str(facts["schema"]).startswith("pcs-onnx/"):
            raise ValueError(facts["schema"])
        files = facts["files"]
        graphs = {
            name: Graph(
                name,
                inside(folder, graph["file"], folder / "manifest.json"),
                {f: files[f] for f in sorted(files) if f.startswith(graph["file"])},
                tuple(graph["inputs"]),
                int(graph["rows"]),
            )
            for name, graph in facts["graphs"].items()
        }
        step = int(facts.get("size", {}).get("step", 0))
        return Deployment(folder, graphs, facts["dtype"], tuple(facts["latent_shape"]), step)
    except (InputError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder} is no ONNX deployment ({type(error).__name__}: {error}): "
            "`pcs export SYSTEM --to onnx --out DIR` makes one"
        ) from error
