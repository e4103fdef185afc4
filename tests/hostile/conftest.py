"""What hostile inputs are tried with: a worker that runs commands under bounds, and what may come of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pcs_core.storage.manifest import MANIFEST, file_hash

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "artifacts"
SECONDS, GIGABYTES = 40, 3.0
"""Bounds of one command: its processor time, and how much more it may map than a command that has begun."""
PEAK = 1.5e9
"""Bytes that a refused command may take beyond that."""


SHARE = int(os.environ.get("PCS_HOSTILE_SHARE", 90))
"""One input of so many runs in `make test`, always the same ones; the others are slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what is not in the share."""
    for item in items:
        if item.path.parent != HERE or not hasattr(item, "callspec"):
            continue
        chosen = zlib.crc32(item.nodeid.rpartition("tests/hostile")[2].encode()) % SHARE == 0
        if not chosen:
            item.add_marker(pytest.mark.slow)


@dataclass
class Outcome:
    """What became of a command."""

    code: Any
    out: str
    err: str
    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak: int = 0

    def __str__(self) -> str:
        """Return it for a failed test."""
        said = f"code {self.code}, {self.seconds:.1f} s, {self.peak / 1e6:.0f} MB, {self.events}"
        return f"{said}\n--- out\n{self.out[-1500:]}\n--- err\n{self.err[-3000:]}"

    def harmless(self) -> Outcome:
        """Say that nothing was let in, printed raw, or ended in an internal error."""
        assert self.events == [], self
        assert self.code in (0, 1, 2, 3), self
        assert "internal error" not in self.err, self
        assert "Traceback" not in self.err, self
        assert self.peak < PEAK, self
        for text in (self.out, self.err):
            odd = {c for c in text if c not in "\n\t\u200c\u200d" and _moves(c)}
            assert not odd, (odd, self)
        return self

    def refused(self, *words: str) -> Outcome:
        """Say that it was refused, in one line that holds ``words``."""
        self.harmless()
        assert self.code == 2, self
        errors = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, self
        assert len(errors[0]) < 1200, self
        for word in words:
            assert word in errors[0], self
        return self


def _moves(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs")


@pytest.fixture(scope="session")
def worker() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(HERE / "worker.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def attack(worker: subprocess.Popen[str], tmp_path: Path) -> Callable[..., Outcome]:
    """Return what runs ``pcs`` with arguments in the test's folder."""

    def run(*argv: object, seconds: int = SECONDS, gigabytes: float = GIGABYTES) -> Outcome:
        order = {"argv": [str(a) for a in argv], "folder": str(tmp_path)}
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps({**order, "seconds": seconds, "gigabytes": gigabytes}) + "\n")
        worker.stdin.flush()
        return Outcome(**json.loads(worker.stdout.readline()))

    return run


@pytest.fixture
def golden(tmp_path: Path) -> Callable[[str], Path]:
    """Return what copies an artifact that an earlier version wrote into the test's folder."""

    def copy(name: str = "lora-dreambooth") -> Path:
        return Path(shutil.copytree(GOLDEN / name, tmp_path / name))

    return copy


@pytest.fixture(scope="session")
def raw() -> Callable[..., bytes]:
    """Return what makes the bytes of a safetensors file of any header: a table, or bytes of it as they are."""

    def make(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    return make


@pytest.fixture
def signed() -> Callable[..., Path]:
    """Return what makes an artifact whole again after a change, as its maker could: every hash is right.

    ``change`` is given the manifest's data and changes it.
    """

    def sign(folder: Path, change: Callable[[dict[str, Any]], object] = lambda data: None) -> Path:
        data = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = [p for p in sorted(folder.iterdir()) if p.name != MANIFEST and p.is_file()]
        data["files"] = {p.name: file_hash(p) for p in files}
        change(data)
        body = {key: value for key, value in data.items() if key != "sha256"}
        canonical = json.dumps(body, sort_keys=True)
        body["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
        text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
        return folder

    return sign


@pytest.fixture(scope="session")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny SD backbone; take ``model`` to change something."""
    from pcs_diffusers.tiny import write_tiny

    return write_tiny(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def model(whole_model: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder."""
    return Path(shutil.copytree(whole_model, tmp_path / "model"))


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """Return a folder with one picture."""
    folder = tmp_path / "subject"
    folder.mkdir()
    Image.new("RGB", (40, 36), "teal").save(folder / "a.png")
    return folder
