"""A process that turns one pickled checkpoint into safetensors, and can do nothing else with it.

``python -m pcs_formats.unpickling FILE OUT``: reads ``FILE`` with torch's restricted unpickler, within limits
of memory and time, and writes its tensors to ``OUT``; numbers and words beside them go into its metadata.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

SECONDS = 120
"""Time of the processor that it may take."""
TIMES, ROOM = 4, 12 * 2**30
"""Memory that it may ask for: so many times the file, and this many bytes for the libraries."""
DEEPEST, MOST = 8, 2**20
"""Tables inside tables that are still read, and values in all: tables that share theirs count each time."""
PLAIN = "pcs.plain"
"""Key of the metadata under which a file's plain values stand."""


def limit(size: int) -> None:
    """Bound what this process may take, where the system knows such bounds."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for what, most in (
        (resource.RLIMIT_AS, TIMES * size + ROOM),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the dotted path and the value of everything in nested tables that is no table, or an empty one.

    Raises
    ------
    ValueError
        Deeper than any checkpoint is.
    """
    if len(path) > DEEPEST:
        raise ValueError(f"tables are nested deeper than {DEEPEST} at {'.'.join(path)!r}")
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    else:
        yield ".".join(path), value


def convert(file: str, out: str) -> None:
    """Write the tensors of ``file`` to ``out``."""
    import torch
    from safetensors.torch import save_file

    loaded = torch.load(file, map_location="cpu", weights_only=True)
    tensors: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    everything = leaves(loaded if isinstance(loaded, dict) else {"": loaded})
    for number, (name, value) in enumerate(everything):
        if number == MOST:
            raise ValueError(f"it holds more than {MOST} values")
        if isinstance(value, dict):
            continue
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().clone().contiguous()
        elif isinstance(value, float) and not math.isfinite(value):
            plain[name] = str(value)  # JSON has no such number
        elif isinstance(value, str | int | float | bool | None):
            plain[name] = value
        else:
            plain[name] = f"<{type(value).__name__}>"
    save_file(tensors, out, {PLAIN: json.dumps(plain)})


def main() -> None:
    """Convert the file named first to the one named second; say in one line what is wrong."""
    import os

    file, out = sys.argv[1:]
    limit(os.path.getsize(file))
    try:
        convert(file, out)
    except MemoryError:
        sys.exit("it asks for more memory than a file of its size needs")
    except Exception as error:
        sys.exit((str(error).strip() or type(error).__name__).splitlines()[0])


if __name__ == "__main__":
    main()
