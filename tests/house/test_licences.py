"""Every distribution carries its licence, and what is not ours is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = [
    ROOT,
    *(p.parent for p in sorted(ROOT.glob("plugins/*/pyproject.toml"))),
    *(p.parent for p in sorted(ROOT.glob("optimizers/*/pyproject.toml"))),
]

ICON_SETS = {
    "glossy": "Noto Emoji",
    "flat": "Fluent UI Emoji",
    "rendered": "Fluent UI Emoji",
    "rounded": "Twemoji",
    "blob": "Noto Emoji",
    "outlined": "EmojiOne",
}


def project(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]


def plugin_points(folder: Path) -> dict[str, str]:
    """The entry points of a plugin; none for a library that plugins may import."""
    return project(folder).get("entry-points", {}).get("pcs.plugins", {})


def test_every_plugin_folder_is_a_distribution() -> None:
    projects = (*(ROOT / "plugins").iterdir(), *(ROOT / "optimizers").iterdir())
    folders = {p for p in projects if list(p.glob("*/__init__.py"))}
    assert folders <= set(DISTRIBUTIONS)


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda p: p.name)
def test_licence(folder: Path) -> None:
    table = project(folder)
    assert table["license"] == "Apache-2.0"
    assert "LICENSE" in table["license-files"]
    assert (folder / "LICENSE").read_text("utf-8") == (ROOT / "LICENSE").read_text("utf-8")
    assert (folder / table["readme"]).read_text("utf-8").strip()


@pytest.mark.parametrize("folder", DISTRIBUTIONS[1:], ids=lambda p: p.name)
def test_scheme(folder: Path) -> None:
    """One name for folder, distribution, package and entry point; plugins do not require plugins."""
    table = project(folder)
    package = folder.name.replace("-", "_")
    assert table["name"] == folder.name
    if "dependencies" in table.get("dynamic", ()):
        return  # a list of the others, without code: test_meta
    assert (folder / package / "__init__.py").is_file()
    assert any(line.startswith("pcs-core") for line in table["dependencies"])
    if points := plugin_points(folder):
        assert points == {folder.name.removeprefix("pcs-"): f"{package}.plugin"}
    plugins = {d.name for d in DISTRIBUTIONS[1:] if plugin_points(d)}
    assert not plugins & {line.split(">")[0].strip() for line in table["dependencies"]}


def test_one_version() -> None:
    assert len({project(d)["version"] for d in DISTRIBUTIONS}) == 1


def test_the_core_says_its_version_once() -> None:
    import pcs_core

    assert pcs_core.__version__ == project(ROOT)["version"]


def test_notice_names_the_drawings() -> None:
    """Every icon set that the embedded backbone's world packs has a line in NOTICE."""
    drawn = pytest.importorskip("pcs_mini.world.build.drawn")
    lines = (ROOT / "NOTICE").read_text("utf-8").splitlines()
    for style, package in drawn.PACKAGES.items():
        words = ICON_SETS[style]
        line = next((line for line in lines if line.strip().startswith(words)), "")
        assert package.licence in line, f"NOTICE has no line for {words} with {package.licence}"
