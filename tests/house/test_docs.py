"""The docs agree with the code and with each other."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pcs_core.catalogue import catalogue
from pcs_testing import CHECKS, Case

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    p
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "plugins/*/*.md",
        "optimizers/**/*.md",
        "changelog.d/*.md",
    )
    for p in ROOT.glob(pattern)
)
LINK = re.compile(r"(?<!!)!?\[[^\]]*\]\(([^)\s]+)\)")


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made on the usual sites."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in LINK.findall(prose):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(target)
    assert not broken


def test_readme_has_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"```\n(make demo.*?)```", readme, re.DOTALL)
    assert block is not None
    commands = [line.split("#")[0].strip() for line in block[1].splitlines()]
    assert commands == ["make demo", "make test"]


def test_ci_runs_the_readme_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").split("\n")
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]


def test_makefile_has_the_promised_targets() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {"setup", "demo", "test", "test-all", "lint", "docs", "bench", "clean"} <= targets


def test_generated_parts_are_fresh() -> None:
    docs = script("docs")
    changed = docs.stale(docs.generate())
    assert not changed, f"run `make docs`: {', '.join(changed)}"


def test_pitfalls_have_symptom_cause_and_fix() -> None:
    text = (ROOT / "docs" / "pitfalls.md").read_text("utf-8").split("## Settings and pluggy")[0]
    entries = re.split(r"^\*\*(?=[^*]+\*\*$)", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 25
    for entry in entries:
        title = entry.split("**")[0]
        assert "*Cause*:" in entry, title
        assert "*Fix*:" in entry, title


def test_changelog_fragments() -> None:
    for path in (ROOT / "changelog.d").iterdir():
        if path.name in ("README.md", "template.md.jinja"):
            continue
        assert re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", path.name), path.name
        assert path.read_text("utf-8").strip()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The technique of write-a-technique.md, installed as its page says."""
    home = tmp_path_factory.mktemp("written")
    page = (ROOT / "docs" / "write-a-technique.md").read_text("utf-8")
    (home / "pcs_scale").mkdir()
    (home / "pcs_scale" / "__init__.py").touch()
    for name in ("channel_scale", "plugin"):
        code = re.search(rf"```python\n(# pcs_scale/{name}.py\n.*?)```", page, re.DOTALL)
        assert code is not None
        (home / "pcs_scale" / f"{name}.py").write_text(code[1], "utf-8")
    toml = re.search(r"```toml\n(# pyproject.toml\n.*?)```", page, re.DOTALL)
    assert toml is not None
    project = tomllib.loads(toml[1])["project"]
    info = home / f"pcs_scale-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head, "utf-8")
    ((group, points),) = project["entry-points"].items()
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        catalogue.cache_clear()
        yield catalogue().get("techniques", "scale.channels")
    catalogue.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == "pcs_scale"]:
        del sys.modules[name]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_written_technique_keeps_the_contract(check: Any, written: Any) -> None:
    check(Case(written))


def test_the_written_technique_works(written: Any) -> None:
    """The example of write-a-technique.md trains two subjects, draws, and comes off without a trace."""
    import torch

    import pcs_core
    from pcs_core.data import Concept, Phase, Recipe, Subject, Use

    backbone = pcs_core.open_backbone("tiny")
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    subjects = [
        Subject(
            name=n, concepts=(Concept(name=n, token=f"<{n}>", noun="dog"),), images=(pictures[i],)
        )
        for i, n in enumerate(("one", "two"))
    ]
    recipe = Recipe(
        id="example",
        uses=(Use("scale", written()),),
        phases=(Phase("all", steps=2, lr={"*": 0.05}),),
    )
    before = pcs_core.sample(None, backbone, "a dog", steps=2, seed=3)
    artifacts = pcs_core.fit(recipe, subjects, backbone)
    assert len(artifacts) == 2
    assert all(t.abs().max() > 0 for p in artifacts for t in p.tensors.values())
    drawn = pcs_core.sample(artifacts[0], backbone, "a <one>", steps=2, seed=3)
    assert drawn.shape == before.shape
    after = pcs_core.sample(None, backbone, "a dog", steps=2, seed=3)
    assert torch.equal(before, after)
