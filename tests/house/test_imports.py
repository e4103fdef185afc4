"""Starting is cheap: help and the ids of the catalogue import no torch.

The floors themselves are `make lint`'s.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [
    *ROOT.glob("plugins/*/pyproject.toml"),
    *ROOT.glob("optimizers/*/pyproject.toml"),
]
HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "PIL")


def heavy_after(code: str) -> list[str]:
    """Return which of the heavy libraries ``code`` imports, in a fresh interpreter."""
    tail = f"\nimport sys; print('HEAVY', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + tail], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("HEAVY")[2].split()


@pytest.mark.parametrize(
    "code",
    [
        "import pcs_core",
        "import pcs_core; dir(pcs_core); pcs_core.PcsError",
        "from pcs_core.hookspecs import hookimpl, catalogue_hookimpl",
        "from pcs_core import Technique",
        "from pcs_core.catalogue import catalogue; c = catalogue(); c.ids('techniques'); c.plugins()",
    ],
)
def test_no_heavy_import(code: str) -> None:
    assert heavy_after(code) == []


def test_every_plugin_module_is_cheap() -> None:
    points = []
    for path in sorted(PROJECTS):
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        points += project["entry-points"]["pcs.plugins"].values()
    assert points
    assert heavy_after("\n".join(f"import {p}" for p in points)) == []


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["techniques"], ["plugins"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["pcs", *{arguments!r}]
from pcs_core.cli.main import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
"""
    assert "torch" not in heavy_after(code)


def test_the_lint_lists_name_every_plugin() -> None:
    """import-linter cannot discover packages: a new plugin must be added to its lists."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    packages = {p.parent.name.replace("-", "_") for p in PROJECTS}
    contracts = {c["id"]: c for c in table["contracts"]}
    assert set(table["root_packages"]) == {"pcs_core", *packages}
    assert set(contracts["plugins-apart"]["modules"]) == packages
    assert set(contracts["plugins-public"]["source_modules"]) == packages
    assert set(contracts["core-below"]["forbidden_modules"]) == packages
    backbones = {"pcs_diffusers", "pcs_mini", "pcs_onnx"}  # the last: schedulers only
    assert (
        set(contracts["model-libraries"]["source_modules"]) == {"pcs_core", *packages} - backbones
    )
    assert set(contracts["peft"]["source_modules"]) == {"pcs_core", *packages} - {"pcs_weights"}
