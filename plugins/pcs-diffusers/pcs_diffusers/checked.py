"""What a model's folder may say, decided before a library reads it.

diffusers and transformers take a folder's configuration at its word: a key in it may name code on a hub
(``auto_map``; ``_attn_implementation_internal``, CVE-2026-4372; ``trust_remote_code``, CVE-2026-5241), a module
to import (``model_index.json``; ``custom_pipeline``, CVE-2026-44513) or a backend that unpickles weights, and
a number may ask for a million layers. None of that is taken from a folder here: its parts are of the classes of
its family, whatever it says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pcs_core.errors import InputError
from pcs_core.small_files import inside, read_json

FOREIGN = frozenset(
    {
        *("auto_map", "custom_pipeline", "custom_generate", "trust_remote_code"),
        *("quantization_config", "compression_config", "_attn_implementation_internal"),
    }
)
"""Keys that name code, backends or other repositories."""
ATTENTION = (None, "eager", "sdpa", "flash_attention_2", "flash_attention_3", "native")
"""Values of ``_attn_implementation`` that name a kernel of the library itself."""
LIBRARIES = ("diffusers", "stable_diffusion", "transformers")
"""Who may hold a component of ``model_index.json``."""
MOST_BYTES = 2**20
"""Of a configuration."""
MOST_NUMBER, MOST_LAYERS, MOST_ENTRIES = 2**24, 128, 4096
"""The largest whole number, the most layers or blocks of one kind, the most entries of a list or table."""
MOST_TOKENIZER, MOST_WORDS = 2**24, 2**18
"""Of a tokenizer: bytes of a file (a T5's take 2.4 million), entries of a vocabulary (a T5's has 32,000)."""
_NUMBERS = re.compile(
    r"(?:.*_)?(?:size|dim|heads|channels|layers|depth|factor|eps|steps|length|labels|groups|timesteps|"
    r"offset|betas|start|end)|(?:freq_|flow_|base_|max_)?shift"
)
"""Names of keys whose values are numbers, or nothing."""
_CLASS = re.compile(r"[A-Z]\w{0,79}")


def check_part(folder: Path, name: str) -> None:
    """Refuse the configuration of a part that asks for anything beyond the class ``name``.

    Raises
    ------
    InputError
        Names the file, the key and its value.
    """
    file = folder / "config.json"
    if not file.is_file():
        return  # the library says what is missing
    config = read_config(file)
    said = config.get("_class_name")
    if said is not None and said != name:
        raise InputError(f"{file}: _class_name is {said!r}, and this part is a {name}")


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer whose files are larger than any that is one, or name code or other files.

    Raises
    ------
    InputError
        Names the file.
    """
    for path in sorted(folder.glob("*")):
        if path.is_file() and path.stat().st_size > MOST_TOKENIZER:
            raise InputError(
                f"{path} is larger than {MOST_TOKENIZER / 2**20:g} MiB: it is no tokenizer's"
            )
    _check_words(folder / "tokenizer.json")
    file = folder / "tokenizer_config.json"
    if file.is_file():
        for key, value in read_config(file).items():
            if key.endswith("_file") and isinstance(value, str) and value:
                inside(folder, value, f"{file}: {key}", links=True)


def _check_words(file: Path) -> None:
    if not file.is_file():
        return
    data = read_json(file, most=MOST_TOKENIZER)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise InputError(f"{file} is no tokenizer's: it holds no model")
    for name, table, most in (
        ("vocab", data["model"].get("vocab", ()), MOST_WORDS),
        ("merges", data["model"].get("merges", ()), MOST_WORDS),
        ("added_tokens", data.get("added_tokens", ()), MOST_ENTRIES),
    ):
        if not isinstance(table, list | dict | tuple) or len(table) > most:
            raise InputError(f"{file}: {name} is no list of at most {most} entries")


def check_index(folder: Path) -> None:
    """Refuse a ``model_index.json`` that names classes of other libraries: diffusers would import them.

    Raises
    ------
    InputError
        Names the file and the component.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        return
    for key, value in read_config(file).items():
        if key.startswith("_") or not isinstance(value, list):
            continue
        known = len(value) == 2 and (
            value == [None, None]
            or (value[0] in LIBRARIES and isinstance(value[1], str) and _CLASS.fullmatch(value[1]))
        )
        if not known:
            raise InputError(
                f"{file}: {key} is {value!r}: a component is a class of {', '.join(LIBRARIES)}"
            )


def check_folder(folder: Path) -> None:
    """Refuse a whole model folder that a library will read by itself. Raises as the checks of its parts."""
    check_index(folder)
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        for name in ("config.json", "scheduler_config.json", "preprocessor_config.json"):
            if (part / name).is_file():
                read_config(part / name)
        if (part / "tokenizer_config.json").is_file():
            check_tokenizer(part)


def read_config(file: Path) -> Mapping[str, Any]:
    """Return a configuration within bounds that names nothing foreign.

    Raises
    ------
    InputError
        No JSON object; names the key that is refused.
    """
    config = read_json(file, most=MOST_BYTES)
    if not isinstance(config, dict):
        raise InputError(f"{file} holds no JSON object")
    for key, value in entries(config):
        name = key.rpartition(".")[2]
        if name in FOREIGN and value not in (None, False, {}, []):
            raise InputError(
                f"{file}: {key} = {str(value)[:80]!r}: code and backends are not taken from a folder"
            )
        if name.endswith("attn_implementation") and value not in ATTENTION:
            raise InputError(
                f"{file}: {key} = {str(value)[:80]!r}: no kernel that comes with the libraries"
            )
        if isinstance(value, list | dict) and len(value) > MOST_ENTRIES:
            raise InputError(
                f"{file}: {key} has {len(value)} entries, at most {MOST_ENTRIES} are read"
            )
        _check_number(file, key, name, value)
    return config


def _check_number(file: Path, key: str, name: str, value: Any) -> None:
    if isinstance(value, str | bool) and _NUMBERS.fullmatch(name):
        raise InputError(f"{file}: {key} = {str(value)[:40]!r} is no number")
    if not isinstance(value, int) or isinstance(value, bool):
        return
    counts = "layers" in name or "blocks" in name or name.endswith("depth")
    most = MOST_LAYERS if counts else MOST_ENTRIES if name == "num_labels" else MOST_NUMBER
    # lengths that mean "no bound" are written as numbers that no memory holds
    if abs(value) > most and not name.startswith(("model_max_length", "max_")):
        raise InputError(f"{file}: {key} = {str(value)[:40]}, at most {most} is read")
    if value < 0 and name.endswith(("_dim", "_size", "heads", "channels")):
        raise InputError(f"{file}: {key} = {value}: nothing has fewer than none")


def entries(data: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested tables and lists with its dotted key; a list's entries under the list's."""
    pairs = data.items() if isinstance(data, dict) else ((None, v) for v in data)
    for key, value in pairs:
        name = place if key is None else f"{place}.{key}".lstrip(".")
        yield name, value
        if isinstance(value, dict | list):
            yield from entries(value, name)
