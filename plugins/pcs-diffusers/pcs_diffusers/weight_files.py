"""Which weight files of a part's folder are loaded: that of no variant, else the one variant that is there.

diffusers and transformers name them alike: ``<stem>.safetensors``, or an index that lists shards, each also
with a variant in the name, as ``<stem>.fp16.safetensors``. What lies beside the loaded files
(``non_ema``, ``fp16`` beside full precision) is no part of a backbone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pcs_core.errors import InputError
from pcs_core.small_files import inside, read_json

STEMS: Mapping[str, str] = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Library -> how its weight files begin."""
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
PREFERRED = ("fp32", "bf16", "fp16")
"""Variants of the same weights, the best first; another one ("non_ema") is another network's."""


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of one part that are loaded, sorted, and their variant (None: of no variant)."""

    files: tuple[Path, ...]
    variant: str | None = None


def weight_files(folder: Path, library: str) -> WeightFiles:
    """Return what ``library`` loads of ``folder``.

    Raises
    ------
    OSError
        Nothing that can be loaded; says what is there instead, and what to do.
    """
    stem = STEMS[library]
    for variant in (None, *PREFERRED):
        if files := _of_variant(folder, stem, variant, index_first=library == "diffusers"):
            return WeightFiles(files, variant)
    others = _variants(folder, stem)
    names = sorted(p.name for p in folder.iterdir() if p.is_file())
    pickled = [name for name in names if name.endswith(PICKLED)]
    if others:
        raise OSError(
            f"{folder.name} holds no {stem}.safetensors, only the variant{'s' * (len(others) > 1)} "
            f"{', '.join(others)}: rename the file to load to {stem}.safetensors"
        )
    if pickled:
        raise OSError(
            f"{folder.name} holds only pickled weights ({pickled[0]}), which can run code and are not "
            f"read: convert them to {stem}.safetensors"
        )
    holds = ", ".join(names[:5]) or "nothing"
    raise OSError(f"no {stem}.safetensors found in {folder.name}: it holds {holds}")


def _of_variant(
    folder: Path, stem: str, variant: str | None, *, index_first: bool
) -> tuple[Path, ...]:
    """Return the files of one variant, or nothing. Of a file and an index diffusers takes the index."""
    mark = "" if variant is None else f".{variant}"
    single = folder / f"{stem}{mark}.safetensors"
    index = folder / f"{stem}.safetensors.index{mark}.json"
    if index.is_file() and (index_first or not single.is_file()):
        return tuple(folder / name for name in _shards(index))
    return (single,) if single.is_file() else ()


def _shards(index: Path) -> list[str]:
    """Return the names of the shards that an index lists, sorted.

    Raises
    ------
    OSError
        The index is damaged, or a shard is missing.
    """
    try:
        names = sorted(set(read_json(index, most=2**24)["weight_map"].values()))
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise OSError(f"{index.parent.name}/{index.name} is no index of shards") from error
    for name in names:
        if not inside(index.parent, name, index, links=True).is_file():
            raise OSError(
                f"{index.parent.name}/{index.name} lists {name}, which is missing: fetch it"
            )
    return names


def _variants(folder: Path, stem: str) -> list[str]:
    pattern = re.compile(
        rf"{re.escape(stem)}\.(?:safetensors\.index\.)?([\w-]+)\.(?:safetensors|json)"
    )
    matches = (pattern.fullmatch(p.name) for p in sorted(folder.iterdir()))
    return sorted({match[1] for match in matches if match and match[1] != "safetensors"})
