"""Starting is cheap: help and the ids of the catalogue import no torch.

The floors themselves are `make lint`'s.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [
    *ROOT.glob("plugins/*/pyproject.toml"),
    *ROOT.glob("optimizers/*/pyproject.toml"),
]
LINT = "import sys; from importlinter.cli import lint_imports_command as lint; lint(sys.argv[1:])"
HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "PIL")


def import_contracts() -> ModuleType:
    path = ROOT / "scripts" / "import_contracts.py"
    spec = importlib.util.spec_from_file_location("import_contracts", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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
        points += project.get("entry-points", {}).get("pcs.plugins", {}).values()
    assert points
    assert heavy_after("\n".join(f"import {p}" for p in points)) == []


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["techniques"], ["plugins"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["pcs", *{arguments!r}]
from pcs_cli.main import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
"""
    assert "torch" not in heavy_after(code)


def test_the_contracts_name_every_distribution() -> None:
    """What `make lint` checks is derived from the tree: no distribution stays outside."""
    config = tomllib.loads(import_contracts().document(import_contracts().distributions()))
    table = config["tool"]["importlinter"]
    packages = {p.parent.name.replace("-", "_") for p in PROJECTS}
    packages = {p for p in packages if list(ROOT.glob(f"*/*/{p}/__init__.py"))}
    contracts = {c["id"]: c for c in table["contracts"]}
    assert set(table["root_packages"]) == {"pcs_core", "pcs_engine", *packages}
    plugins = set(contracts["plugins-apart"]["modules"])
    libraries = set(contracts["libraries-below"]["source_modules"])
    assert plugins | libraries == packages
    assert {"pcs_cli", "pcs_testing"} <= libraries
    private = set(contracts["pcs_core.catalogue"]["source_modules"])
    assert private == plugins
    assert set(contracts["core-below"]["forbidden_modules"]) == packages


def test_a_forbidden_import_is_told(tmp_path: Path) -> None:
    """A plugin that imports another plugin, a private part, a library or peft breaks a contract each."""
    script = import_contracts()
    for name, line in {
        "pcs_core": "",
        **{part.replace(".", "/"): "" for part in script.PRIVATE},
        "pcs_here": "import pcs_there, pcs_engine, pcs_cli, peft\n",
        "pcs_there": "",
        "pcs_cli": "",
        "pcs_said": "import peft, pcs_engine\n",
        "peft": "",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(line, "utf-8")
    plugins = [script.Distribution(f"pcs_{n}", True, frozenset(), {}) for n in ("here", "there")]
    said = {"peft": ["pcs_said"], "pcs_engine": ["pcs_said"]}
    plugins.append(script.Distribution("pcs_said", True, frozenset(), said))
    library = script.Distribution("pcs_cli", False, frozenset(), {})
    rules = {"plugins-apart", "pcs_engine", "pcs_cli", "peft"}
    kept = [c for c in script.contracts([*plugins, library]) if c["id"] in rules]
    (tmp_path / "c.toml").write_text(script.document([*plugins, library]), "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LINT, "c.toml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    for rule in kept:
        assert f"{rule['name']} BROKEN" in done.stdout, done.stdout
    assert len(kept) == len(rules)
    assert "pcs_said" not in done.stdout
    assert "The core imports no plugin KEPT" in done.stdout
