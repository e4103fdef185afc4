"""Published packages as data: fetched from their registry, pinned, never installed."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Package:
    """One version of one package."""

    name: str
    version: str
    sha256: str
    """Of the downloaded file."""
    licence: str
    author: str
    registry: Literal["npm", "debian"] = "npm"

    @property
    def file(self) -> str:
        """Name of the downloaded file, as the registry's own client writes it."""
        if self.registry == "npm":
            return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name}_{self.version}_all.deb"

    @property
    def source(self) -> dict[str, Any]:
        """The entry of the archive's list of sources."""
        return {
            "package": self.name,
            "version": self.version,
            "sha256": self.sha256,
            "licence": self.licence,
            "author": self.author,
            "registry": self.registry,
        }


def fetch(package: Package, folder: Path) -> Path:
    """The package's file in `folder`, downloaded when it is not there, its checksum verified.

    Raises
    ------
    FileNotFoundError
        npm or apt-get could not fetch it.
    ValueError
        The file is not the pinned one.
    """
    path = folder / package.file
    if not path.exists():
        _download(package, folder)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise ValueError(
            f"{path} has sha256 {digest}, expected {package.sha256}: delete it to fetch it again, "
            f"or change the pin of {package.name} if you mean another version"
        )
    return path


def _download(package: Package, folder: Path) -> None:
    if package.registry == "npm":
        command = ["npm", "pack", f"{package.name}@{package.version}"]
    else:
        command = ["apt-get", "download", f"{package.name}={package.version}"]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FileNotFoundError(
            f"{folder / package.file} is missing and `{' '.join(command)}` failed: "
            "put the file there by hand"
        ) from error
    if not (folder / package.file).exists():
        raise FileNotFoundError(f"`{' '.join(command)}` wrote no {package.file} into {folder}")


class Contents:
    """The files of an opened package."""

    def __init__(self, package: Package, tar: tarfile.TarFile) -> None:
        self._package, self._tar = package, tar
        self._members = {_plain(m.name): m for m in tar.getmembers() if m.isfile()}

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """One file by its path in the package; npm's leading ``package/`` left out.

        Raises
        ------
        FileNotFoundError
            The package has no such file.
        """
        if name not in self._members:
            raise FileNotFoundError(f"{self._package.file} holds no {name}")
        stream = self._tar.extractfile(self._members[name])
        assert stream is not None
        return stream.read()


def _plain(name: str) -> str:
    return name.removeprefix("./").removeprefix("package/")


@contextmanager
def open_package(package: Package, folder: Path) -> Iterator[Contents]:
    """The pinned package's files; see `fetch` for what is refused."""
    path = fetch(package, folder)
    if package.registry == "npm":
        with tarfile.open(path) as tar:
            yield Contents(package, tar)
        return
    with tempfile.TemporaryFile() as stream:
        stream.write(_ar_member(path.read_bytes(), "data.tar"))
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            yield Contents(package, tar)


def _ar_member(archive: bytes, prefix: str) -> bytes:
    """First member whose name starts so, of a Unix ar archive: 60-byte headers, even offsets."""
    stream = io.BytesIO(archive)
    if stream.read(8) != b"!<arch>\n":
        raise ValueError("not a Debian package: it does not start with !<arch>")
    while header := stream.read(60):
        name, size = header[:16].decode().strip(), int(header[48:58])
        data = stream.read(size + size % 2)[:size]
        if name.startswith(prefix):
            return data
    raise ValueError(f"not a Debian package: it has no {prefix}")
