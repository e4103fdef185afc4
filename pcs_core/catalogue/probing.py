"""Plugins tried in a process of their own, once, before this one imports them.

What a plugin raises, prints or warns about is survived where it happens. That it ends the process, kills
it, waits for ever, or closes the standard output is not: it is found by a process that may be lost. What was
found is kept until a file of the plugin changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from pcs_core.caches import cache_folder, write_cached
from pcs_core.errors import InputError
from pcs_core.small_files import read_json

FILE = "plugins.json"
MOST = 1000
"""Of plugins that are remembered; the oldest go."""
FINE, GUARDED = "", "guarded"
"""A plugin that may be imported as it is; one that reaches past ``sys.stdout`` to the output itself."""


def probe(points: Sequence[EntryPoint]) -> list[str]:
    """Return what is to be known of each entry point before it is imported.

    The empty text: nothing. :data:`GUARDED`: its import is run behind :func:`guarded`. Anything else is why
    it cannot be imported.
    """
    keys = [key_of(point) for point in points]
    file = cache_folder() / FILE
    known = _read(file)
    unknown = {key: p for key, p in zip(keys, points, strict=True) if key not in known}
    # a program that is one file with its Python inside has no Python to start
    if unknown and sys.executable and not getattr(sys, "frozen", False):
        from pcs_core.catalogue.trial import tried

        known |= tried(unknown)
        kept = dict(list(known.items())[-MOST:])
        # where it cannot be written, the next command tries them again
        with contextlib.suppress(OSError):
            write_cached(file, json.dumps(kept, indent=1))
    return [known.get(key, FINE) for key in keys]


def key_of(point: EntryPoint) -> str:
    """Return a digest of what an entry point names and of the files of its package, by size and time."""
    version = point.dist.version if point.dist else ""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {point.name} {point.value} {version}".encode())
    for path, about in sorted(_sources(point.value.partition(":")[0].partition(".")[0])):
        digest.update(f"{path} {about.st_size} {about.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Keep the process's standard output from code that writes to it, or closes it, by its number."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _sources(package: str) -> Iterator[tuple[str, os.stat_result]]:
    spec = None
    with contextlib.suppress(ValueError, ImportError):  # loaded by something that left no spec
        spec = find_spec(package)
    if spec is None:
        return
    folders = list(spec.submodule_search_locations or ())
    if not folders and spec.origin and os.path.isfile(spec.origin):
        yield spec.origin, os.stat(spec.origin)
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.endswith((".py", ".so", ".pyd")):
                    yield entry.path, entry.stat()
                elif not entry.name.startswith((".", "__pycache__")) and entry.is_dir():
                    folders.append(entry.path)


def _read(file: Path) -> dict[str, str]:
    try:
        data = read_json(file) if file.exists() else {}
    except InputError:
        return {}
    return data if isinstance(data, dict) and all(isinstance(v, str) for v in data.values()) else {}
