"""Write the generated parts of the docs, and evidence's hashes, or say with ``--check`` that they are stale.

``FILES`` are whole files, ``PARTS`` what stands between the markers ``<!-- NAME:begin -->`` and
``<!-- NAME:end -->`` of a page. READMEs of plugins that hold techniques have a part ``techniques``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pcs_core.catalogue import catalogue
from pcs_core.hookspecs import RUN_HOOKS, CatalogueSpecs, RunSpecs
from pcs_evidence import read_evidence, with_sources, written
from pcs_evidence.status import SystemRow, systems, where

if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))
from pages.choose import answers_part, figures_part, published_part, scopes_part
from pages.claims import claims_page
from pages.commands import commands_page
from pages.core import core_page
from pages.cost import cost_page
from pages.coverage import coverage_page
from pages.fidelity import fidelity_page
from pages.formats import formats_part
from pages.index import decisions_part, pages_part, plugins_page
from pages.matrix import matrix_part, reasons_part
from pages.memory import memory_part
from pages.readmes import technique_lists
from pages.systems import counts_part
from pages.techniques import techniques_page
from pages.tree import DOCS, ROOT, prose
from pages.tree import row as _row

NOTE = "<!-- written by `make docs`: change the code, not this file -->\n\n"
STATUS_WORDS = {
    "ready": "runs, and its pictures are likelier the subject's than the untuned base's: the whole 95 % "
    "interval over subjects lies above zero and the mean reaches a stated minimum",
    "runs": "checked, and pictures were drawn from references, on the backbone that is named",
    "checked": "its defining check held and every neighbour failed, with recipe and code as they are",
    "loads": "its recipe loads; no check or run of it as it is now is on record",
    "planned": "known, without a recipe",
}


def hooks() -> str:
    """Return docs/hooks.md."""
    text = "# Hooks\n\nEvery hook: what a technique implements, and what a plugin says that it holds.\n\n"
    text += "## The run: five verbs\n\n"
    text += (
        "A technique implements those it needs, marked `@hookimpl`, with any of the arguments.\n"
    )
    for name in RUN_HOOKS:
        text += _hook(RunSpecs, name)
    text += "\n## The catalogue: what a plugin holds\n\n"
    text += "A plugin module answers with functions marked `@catalogue_hookimpl`.\n"
    for name, function in vars(CatalogueSpecs).items():
        if inspect.isfunction(function):
            text += _hook(CatalogueSpecs, name)
    return text


def systems_page(rows: Sequence[SystemRow]) -> str:
    """Return docs/systems.md."""
    text = "# Systems\n\nEvery system the catalogue knows, and how far each one is here.\n\n"
    for status, words in STATUS_WORDS.items():
        text += f"- **{status}**: {words}.\n"
    text += "\n| system | id | year | framework | scope | status | on | effect |\n"
    text += "|---|---|---|---|---|---|---|---|\n"
    for row in sorted(rows, key=lambda r: (list(STATUS_WORDS).index(r.status), r.id)):
        facts = (row.name, f"`{row.id}`", row.year or "", row.framework, ", ".join(row.scope))
        text += _row(*facts, row.status, where(row), _effect(row))
    text += (
        "\nThe effect is the mean paired difference of a metric to the untuned base under the same noise, with "
        "its 95 % bootstrap interval over subjects. `make evidence` renews what is outdated.\n"
    )
    return text


def _effect(row: SystemRow) -> str:
    parts = []
    for standing in row.on.values():
        effect = standing.evidence.effect if standing.evidence else None
        if effect is not None:
            over = f"{effect.subjects} subjects, at least {effect.minimum:g} asked"
            parts.append(
                f"{effect.metric} {effect.mean:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}] ({over})"
            )
    return "; ".join(parts)


def knows_part(_: Sequence[SystemRow]) -> str:
    """Return what the shipped weights of Mini know, from the record beside them."""
    from pcs_mini.plugin import folder
    from pcs_mini.training.card import knows
    from pcs_mini.world.curriculum import read_record

    return knows(read_record(folder()))


def gate_part(_: Sequence[SystemRow]) -> str:
    """Return the quality gate's figures as `pcs mini evaluate --json` printed them."""
    from pcs_mini.evaluate import BOUNDS

    figures = json.loads((DOCS / "mini-gate.json").read_text("utf-8"))
    text = "| figure | shipped | bound |\n| --- | --- | --- |\n"
    for name, value in figures.items():
        if not name.endswith("sha256"):
            text += _row(f"`{name}`", value, BOUNDS.get(name, ""))
    missed = [name for name, least in BOUNDS.items() if figures.get(name, 0) < least]
    verdict = (
        f"not reached: {', '.join(f'`{name}`' for name in missed)}" if missed else "all reached"
    )
    digest = figures["weights_sha256"][:12]
    return f"{text}\nOf these bounds: {verdict}. Weights `{digest}`, stage {figures['stage']}."


Rows = Sequence[SystemRow]
FILES: dict[str, Callable[[Rows], str]] = {
    "docs/commands.md": lambda _: commands_page(),
    "docs/core.md": lambda _: core_page(),
    "docs/cost-of-a-system.md": lambda _: cost_page(),
    "docs/coverage.md": coverage_page,
    "docs/fidelity.md": fidelity_page,
    "docs/hooks.md": lambda _: hooks(),
    "docs/plugins.md": lambda _: plugins_page(),
    "docs/systems.md": systems_page,
    "docs/claims.md": lambda _: claims_page(),
    "docs/techniques.md": lambda _: techniques_page(),
}
PARTS: dict[str, dict[str, Callable[[Rows], str]]] = {
    "README.md": {
        "counts": counts_part,
        "matrix": lambda _: matrix_part(),
        "memory": lambda _: memory_part(),
    },
    "docs/choose.md": {
        "answers": lambda _: answers_part(),
        "figures": lambda _: figures_part(),
        "published": lambda _: published_part(),
        "scopes": scopes_part,
    },
    "docs/families.md": {"matrix": lambda _: matrix_part(), "reasons": lambda _: reasons_part()},
    "docs/formats.md": {"formats": lambda _: formats_part()},
    "docs/mini.md": {"knows": knows_part, "gate": gate_part},
}


def generate() -> dict[Path, str]:
    """Return the text that each generated file should have."""
    rows = systems()
    texts = {ROOT / name: NOTE + make(rows) for name, make in FILES.items()}
    for name, parts in PARTS.items():
        page = (ROOT / name).read_text("utf-8")
        for part, make in parts.items():
            page = replace_part(page, part, make(rows))
        texts[ROOT / name] = page
    index = (DOCS / "index.md").read_text("utf-8")
    index = replace_part(index, "pages", pages_part(texts))
    texts[DOCS / "index.md"] = replace_part(index, "decisions", decisions_part())
    for dist, lines in technique_lists(rows).items():
        readme = dist.folder / "README.md"
        texts[readme] = replace_part(readme.read_text("utf-8"), "techniques", lines, readme)
    return {**texts, **evidence_texts()}


def evidence_texts() -> dict[Path, str]:
    """Return each evidence file whose hash of its sources is not that of the installed ones, with that hash."""
    known = catalogue()
    read = read_evidence(known)
    texts: dict[Path, str] = {}
    for (backbone, system), file in known.evidence_files().items():
        now, evidence = written(system, backbone, known), read[system][backbone]
        path = Path(str(file))
        # empty stays empty while the evidence is outdated
        if path.is_relative_to(ROOT) and (now is None or now.sources != evidence.sources):
            texts[path] = with_sources(evidence, known).render()
    return texts


def replace_part(text: str, name: str, new: str, page: Path | None = None) -> str:
    """Return ``text`` with what lies between the markers of ``name`` replaced by ``new``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{page or ''}: the markers {begin} and {end} must be there once")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{new.strip()}\n{end}{after}"


def stale(texts: dict[Path, str]) -> list[str]:
    """Return the names of the files that differ from ``texts``."""
    return [
        str(path.relative_to(ROOT))
        for path, text in texts.items()
        if not path.is_file() or path.read_text("utf-8") != text
    ]


def _hook(specs: type, name: str) -> str:
    function = getattr(specs, name)
    first = " (the first answer counts)" if _first_result(function) else ""
    parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    return f"\n### `{name}({', '.join(parameters)})`{first}\n\n{prose(function)}\n"


def _first_result(function: Any) -> bool:
    options = [getattr(function, f"pcs.{level}_spec", None) for level in ("run", "catalogue")]
    return any(o and o["firstresult"] for o in options)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    options = parser.parse_args(None if arguments is None else list(arguments))
    texts = generate()
    changed = stale(texts)
    if options.check:
        for name in changed:
            print(f"{name} is out of date: run `make docs`", file=sys.stderr)
        return 1 if changed else 0
    for path, text in texts.items():
        if str(path.relative_to(ROOT)) in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
