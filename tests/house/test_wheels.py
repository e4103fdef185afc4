"""Wheels work without the checkout: built, installed into a venv of their own, and used there."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT = (".", "plugins/pcs-tokens", "plugins/pcs-weights")

USE = """
import json, sys
import torch
import pcs_core, pcs_tokens, pcs_weights
from pcs_core.catalogue import catalogue
from pcs_core.data import Concept, Features, Site

held = catalogue()
assert not held.broken, held.broken
learnable = held.get("techniques", "tokens.learnable")
kv = held.get("techniques", "weights.kv")


class Run:
    def sites(self, glob, kind="*", part="denoiser"):
        return [Site("mid.attn2", "denoiser", "cross", width=8, context=4)]


features = Features(concepts=((Concept(name="dog", token="<dog>", noun="dog"),),))
technique = kv.from_settings({"parts": ["k"]})
edit = technique.fuse(run=Run(), features=features).edits[0]
print(json.dumps({
    "plugins": sorted(p.distribution for p in held.plugins()),
    "techniques": held.ids("techniques"),
    "settings": learnable.from_settings({"vectors": 2}).settings()["vectors"],
    "shape": list(edit.k.shape),
    "files": [m.__file__ for m in (pcs_core, pcs_tokens, pcs_weights)],
    "path": sys.path,
}))
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Build three wheels from the checkout, without network."""
    out = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    folders = [ROOT / f for f in BUILT]
    run(*pip, "--no-deps", "--no-index", "--no-build-isolation", "-w", out, *folders, cwd=out)
    return sorted(out.glob("*.whl"))


def test_contents(wheels: list[Path]) -> None:
    assert [w.name.split("-")[0] for w in wheels] == ["pcs_core", "pcs_tokens", "pcs_weights"]
    for wheel in wheels:
        names = zipfile.ZipFile(wheel).namelist()
        tops = {n.split("/")[0] for n in names}
        package = wheel.name.split("-")[0]
        assert {t for t in tops if not t.endswith(".dist-info")} == {package}
        assert any(n.endswith("licenses/LICENSE") for n in names)
        assert not [n for n in names if "__pycache__" in n]
    core = zipfile.ZipFile(wheels[0]).namelist()
    assert "pcs_core/py.typed" in core
    assert any(n.endswith("licenses/NOTICE") for n in core)


def test_used_from_another_venv(wheels: list[Path], tmp_path: Path) -> None:
    import json

    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
        ).strip()
    )
    # pip of this environment installs into the other one; a wheel needs nothing built
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", *wheels, cwd=tmp_path)
    # Third parties are seen through a path entry. Entries of a .pth file are not searched for further
    # .pth files, so the editable installs of this environment stay out of sight. Their metadata does
    # not: the plugins are limited to those installed here.
    outer = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "third-party.pth").write_text("".join(f"{p}\n" for p in sorted(outer)), "utf-8")
    found = json.loads(
        subprocess.run(
            [str(python), "-I", "-c", USE],
            cwd=tmp_path,
            env={"PCS_PLUGINS": "pcs-tokens,pcs-weights"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert all(Path(f).resolve().is_relative_to(site.resolve()) for f in found["files"])
    assert str(ROOT) not in found["path"]
    assert not any(Path(p).resolve().is_relative_to(ROOT / "plugins") for p in found["path"])
    assert found["plugins"] == ["pcs-tokens", "pcs-weights"]
    assert {"tokens.learnable", "tokens.rare", "weights.kv", "weights.lora"} <= set(
        found["techniques"]
    )
    assert found["settings"] == 2
    assert found["shape"] == [1, 8, 4]
