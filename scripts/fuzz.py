"""Feed readers with broken files until one ends in anything but a plain refusal.

    python scripts/fuzz.py [header|toml|json|png|all] [--runs N] [--seed N] [--engine atheris|random]

`header` is that of a safetensors file, `png` a picture. The engine atheris follows the branches that an input
takes (`make tools` installs it into .venv-tools, from where it is taken); random changes good files by the
seed, so that a finding can be made again. What ends in a bug is written to `build/fuzz/`; the exit code is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import io
import json
import random
import struct
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors import deserialize as library_reads

from pcs_core.errors import PcsError
from pcs_core.small_files import parse_json, parse_toml
from pcs_core.tensor_headers import check_header

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "fuzz"
TOOLS = ROOT / ".venv-tools"
"""Where `make tools` installs atheris."""
SLOWEST = 20.0
"""Seconds of a processor that one input may take."""


def header(data: bytes) -> None:
    """Check a header; what is let through, the library must read or refuse as well."""
    length = int.from_bytes(data[:8], "little")
    try:
        entries = check_header(data[8 : 8 + length], max(0, len(data) - 8 - length))
    except ValueError:
        return
    try:
        names = {name for name, _ in library_reads(data)}
    except SafetensorError:
        return
    assert names == set(entries), "the library reads other tensors"


def toml(data: bytes) -> None:
    """Read a TOML file."""
    parse_toml(data.decode("utf-8", "replace"), "fuzz")


def as_json(data: bytes) -> None:
    """Read a JSON file; what is let through can be written again."""
    json.dumps(parse_json(data.decode("utf-8", "replace"), "fuzz"), ensure_ascii=False).encode()


def png(data: bytes) -> None:
    """Read a picture as a subject's and as a mask."""
    from pcs_folders.images import read_picture
    from pcs_folders.mask_files import read_mask

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.png"
        file.write_bytes(data)
        picture = read_picture(file, (32, 32))
        assert bool((picture.rgb >= 0).all() and (picture.rgb <= 1).all()), "numbers outside [0, 1]"
        read_mask(file)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": header,
    "toml": toml,
    "json": as_json,
    "png": png,
}


FOLLOWED = {
    "header": ("pcs_core.tensor_headers", "pcs_core.small_files", "json.decoder"),
    "toml": ("pcs_core.small_files", "tomllib._parser", "tomllib._re"),
    "json": ("pcs_core.small_files", "json.decoder"),
    "png": (
        *("PIL.PngImagePlugin", "PIL.ImageFile", "PIL.ImageOps", "PIL.TiffImagePlugin"),
        *("pcs_folders.images", "pcs_folders.colour", "pcs_folders.said_colour"),
        *("pcs_folders.mask_files", "pcs_folders.high_range", "pcs_folders.other_formats"),
    ),
}
"""Modules whose branches are followed: those that read the bytes."""


def good(target: str) -> list[bytes]:
    """Return files that are read, to begin from."""
    if target == "png":
        files = []
        for mode in ("RGB", "RGBA", "L", "P", "1", "I;16", "LA"):
            buffer = io.BytesIO()
            size = (9, 7)
            image = (
                Image.new(mode, size) if mode != "I;16" else Image.fromarray(np.zeros(size, "u2"))
            )
            image.save(buffer, "PNG", **({"transparency": 0} if mode in ("P", "L") else {}))
            files.append(buffer.getvalue())
        return files
    if target == "header":
        one = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}
        two = {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]}
        tables = [{}, {"a": one}, {"a": one, "b.weight": two, "__metadata__": {"x": "y"}}]
        texts = [json.dumps(t).encode() for t in tables]
        return [struct.pack("<Q", len(t)) + t + b"\0" * (10 * (t != b"{}")) for t in texts]
    if target == "toml":
        return [
            b'[recipe]\nid = "a"\n[[use]]\ntechnique = "x"\nrank = 4\n[[phase]]\nlr = { "a/*" = 1e-4 }\n',
            b"a.b.c = 1\nd = [[1, 2], ['x']]\ne = 1979-05-27T07:32:00Z\nf = '''\n\"'''\n",
        ]
    return [b'{"a": [1, 2.5e3, null, true, "\\u00e9"], "b": {"c": {}}}', b"[]", b'"x"']


BITS = (b"[", b"{", b'"', b"\\", b"\0", b"\xff", b"9" * 500, b"-", b"e", b".", b"null", b"\\ud800",
        b"[" * 60, b'"""', b"'''", b"#", b"\n", b"IDAT", b"tRNS", b"\x7f\xff\xff\xff")  # fmt: skip


def changed(data: bytes, chance: random.Random) -> bytes:
    """Return a file with a few changes: bytes turned, cut out, doubled, or put in."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(content) + 1)
        to = min(len(content), at + chance.choice((1, 1, 2, 4, 16)))
        kind = chance.randrange(5)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del content[at:to]
        elif kind == 2:
            content[at:at] = content[at:to] * chance.choice((1, 2, 64))
        elif kind == 3:
            content[at:at] = chance.choice(BITS)
        else:
            content[at:to] = chance.randbytes(to - at)
    return bytes(content)


def summed(data: bytes) -> bytes:
    """Return a PNG with the checksum of each chunk made right, so that readers look into the chunks."""
    whole, at = bytearray(data), 8
    while at + 12 <= len(whole):
        end = at + 8 + int.from_bytes(whole[at : at + 4], "big")
        if end + 4 > len(whole):
            break
        whole[end : end + 4] = zlib.crc32(whole[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(whole)


def measured(data: bytes) -> bytes:
    """Return a safetensors file with the length of its header made right, if it has one."""
    return struct.pack("<Q", max(0, data.rfind(b"}") - 7)) + data[8:]


REPAIRS = {"png": summed, "header": measured}
"""What makes a broken file less broken, so that readers come further."""


def by_any_change(target: str, data: bytes, chance: random.Random) -> bytes:
    """Return a file with a few changes; half of those that can be repaired are."""
    data = changed(data, chance)
    return REPAIRS[target](data) if target in REPAIRS and chance.random() < 0.5 else data


def tried(target: str, data: bytes) -> str:
    """Return what went wrong with an input, or nothing."""
    started = time.process_time()
    try:
        TARGETS[target](data)
    except PcsError:
        pass
    except BaseException:
        return traceback.format_exc()
    seconds = time.process_time() - started
    return f"it took {seconds:.0f} s" if seconds > SLOWEST else ""


def kept(target: str, data: bytes, why: str) -> str:
    """Write an input that ended in a bug, say so, and return what was said."""
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}"
    file.write_bytes(data)
    print(f"{file}: {why}", file=sys.stderr)
    return f"{file}: {why.strip().splitlines()[-1]}"


def by_chance(target: str, runs: int, seed: int) -> list[str]:
    """Try ``runs`` inputs; return what went wrong."""
    wrong, chance, files = [], random.Random(f"{target} {seed}"), good(target)
    for _ in range(runs):
        data = by_any_change(target, chance.choice(files), chance)
        if why := tried(target, data):
            wrong.append(kept(target, data, why))
    return wrong


def find_atheris() -> bool:
    """Return whether atheris can be imported, from here on also from the tools' environment."""
    if find_spec("atheris") is None:
        sys.path += map(str, TOOLS.glob("lib/python*/site-packages"))
    return find_spec("atheris") is not None


def functions(module: ModuleType) -> Iterator[Any]:
    """Yield the functions and methods that are written in ``module``."""
    holders = [module, *(c for c in vars(module).values() if inspect.isclass(c))]
    for holder in holders:
        for one in vars(holder).values():
            if inspect.isfunction(one) and one.__module__ == module.__name__:
                yield one


def by_branches(target: str, runs: int, seed: int) -> None:
    """Let atheris choose the inputs; it ends the process."""
    import atheris  # type: ignore[import-not-found]

    for name in FOLLOWED[target]:
        for function in functions(import_module(name)):
            atheris.instrument_func(function)

    def one(data: bytes) -> None:
        if why := tried(target, data):
            kept(target, data, why)
            raise AssertionError(why)

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.5:
            data = atheris.Mutate(data, most)
        return by_any_change(target, data, chance)[:most]

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(good(target)):
            (Path(folder) / str(number)).write_bytes(data)
        words = [sys.argv[0], f"-runs={runs}", f"-seed={seed or 1}", "-rss_limit_mb=4096"]
        atheris.Setup([*words, "-timeout=60", folder], one, custom_mutator=mutated)
        atheris.Fuzz()


def main() -> int:
    """Return 1 where an input went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", nargs="?", default="all", choices=[*TARGETS, "all"])
    parser.add_argument("--runs", type=int, default=500, help="inputs of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["atheris", "random"], default="random")
    options = parser.parse_args()
    if options.engine == "atheris":
        if not find_atheris():
            print("atheris is not installed (make tools): inputs by chance instead")
        elif options.target == "all":
            parser.error("atheris ends the process: name one target")
        else:
            by_branches(options.target, options.runs, options.seed)
    targets = list(TARGETS) if options.target == "all" else [options.target]
    wrong = {target: len(by_chance(target, options.runs, options.seed)) for target in targets}
    for target, count in wrong.items():
        print(f"{target}: {options.runs} inputs of seed {options.seed}, {count} went wrong")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
