"""docs/fidelity.md: what each built system was written from, agrees with, claims, and leaves out."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pages.tree import DOCS, ROOT, escape, row
from pcs_core.assembly.load import load_recipe
from pcs_core.assembly.schema import ParityTable
from pcs_core.catalogue import Head, catalogue
from pcs_evidence.status import SystemRow

FAULTS = DOCS / "fidelity-faults.toml"
PARITY = DOCS / "fidelity-parity.toml"
TEST_ID = r"^[\w./-]+\.py::\w+(::\w+)?$"
Text = Annotated[str, Field(min_length=1)]

INTRO = """# Fidelity

What each built system was written from, which other implementation it agrees with, what its check claims and
which neighbours fail it, and what it leaves out and why. The facts stand in the recipes
([write-a-recipe.md](write-a-recipe.md#the-facts-of-a-published-system)), agreement of single techniques in
`docs/fidelity-parity.toml`, faults that were found in `docs/fidelity-faults.toml`; every test named exists.

Parity means: the same weights and the same inputs give the same outputs, every element within the bound,
absolute. What is not listed as read was not read again for this page; "-" stands where nothing is on record.

"""


class Fault(BaseModel):
    """One ``[[fault]]``: what was wrong in a system, what is right, and the test that guards it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    system: Text
    fault: Text
    right: Text
    test: Annotated[str, Field(pattern=TEST_ID)]


class TechniqueParity(ParityTable):
    """One ``[[parity]]`` of a technique, wherever it is used."""

    technique: Text


def faults() -> list[Fault]:
    """Return the faults on record, by system, then in the order of the file."""
    listed = tomllib.loads(FAULTS.read_text("utf-8")).get("fault", [])
    return sorted((Fault.model_validate(entry) for entry in listed), key=lambda f: f.system)


def technique_parity() -> list[TechniqueParity]:
    """Return what is on record of single techniques."""
    listed = tomllib.loads(PARITY.read_text("utf-8")).get("parity", [])
    return [TechniqueParity.model_validate(entry) for entry in listed]


def tests_named() -> set[str]:
    """Return the id of every test that a recipe, a technique's parity or a fault names."""
    named = {fault.test for fault in faults()} | {entry.test for entry in technique_parity()}
    for head in catalogue().heads().values():
        named |= {str(entry["test"]) for entry in head.facts.get("parity", ())}
    return named


def exists(id: str) -> bool:
    """Return whether ``"path/file.py::name"`` or ``"...::Class::name"`` is a function of the tree."""
    file, *names = id.split("::")
    path = ROOT / file
    if not path.is_file():
        return False
    body: Sequence[ast.stmt] = ast.parse(path.read_text("utf-8")).body
    for name in names:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        matching = [node for node in body if isinstance(node, kinds) and node.name == name]
        if not matching:
            return False
        body = matching[0].body
    return True


def fidelity_page(rows: Sequence[SystemRow]) -> str:
    """Return docs/fidelity.md."""
    heads = catalogue().heads()
    built = sorted(row.id for row in rows if heads[row.id].built)
    parity = technique_parity()
    facts = {id: heads[id].facts for id in built}
    agrees = [id for id in built if facts[id].get("parity") or _of_uses(id, parity)]
    read = [id for id in built if facts[id].get("source")]
    text = INTRO + (
        f"Of {len(built)} built systems the sources of {len(read)} are on record, {len(agrees)} agree with "
        "another implementation in whole or in part.\n"
    )
    for id in built:
        text += _system(id, heads[id], parity)
    text += "\n## Parity of single techniques\n\n| technique | against | within | test |\n|---|---|---|---|\n"
    for entry in sorted(parity, key=lambda e: (e.technique, e.against)):
        what = f"`{entry.technique}`" + (f" ({escape(entry.of)})" if entry.of else "")
        text += row(what, escape(entry.against), f"{entry.within:g}", _test(entry.test))
    text += (
        "\n## Faults that were found\n\n| system | what was wrong | what is right | guarded by |\n"
    )
    text += "|---|---|---|---|\n"
    for fault in faults():
        text += row(
            f"`{fault.system}`", escape(fault.fault), escape(fault.right), _test(fault.test)
        )
    return text


def _published(title: str, paper: str, code: str) -> str:
    """Return the line that says where a system was published."""
    if not (title or paper or code):
        return "Of no paper.\n\n"
    where = f" ({paper})" if paper else ""
    return (
        f"{title}{where}; "
        + (f"code: {code}." if code else "no code by its authors is named.")
        + "\n\n"
    )


def _system(id: str, head: Head, parity: Iterable[TechniqueParity]) -> str:
    check = load_recipe(id).check
    paper, code = head.table.get("paper", ""), head.table.get("code", "")
    text = f"\n## {id}\n\n" + _published(escape(str(head.table.get("title", ""))), paper, code)
    sources = [_source(entry) for entry in head.facts.get("source", ())]
    agrees = [_parity(ParityTable.model_validate(e)) for e in head.facts.get("parity", ())]
    agrees += [_parity(entry, entry.technique) for entry in _of_uses(id, parity)]
    claims = [f"`{entry['claim']}`" for entry in check.get("claim", ())]
    failing = [f"{n['name']} ({escape(n['why'])})" for n in check.get("neighbour", ())]
    left = [f"{word}: {escape(reason)}" for word, reason in head.left_out.items()]
    left += [f"{escape(e['what'])} {escape(e['why'])}" for e in head.facts.get("departure", ())]
    for name, items in (("Read", sources), ("Agrees with", agrees)):
        text += _list(name, items)
    text += f"- **Claims**: {', '.join(dict.fromkeys(claims)) or '-'}\n"
    text += f"- **Neighbours that fail**: {'; '.join(failing) or '-'}\n"
    return text + _list("Left out, or otherwise", left)


def _list(name: str, items: Sequence[str]) -> str:
    if len(items) < 2:
        return f"- **{name}**: {items[0] if items else '-'}\n"
    return f"- **{name}**:\n" + "".join(f"  - {item}\n" for item in items)


def _source(entry: Mapping[str, Any]) -> str:
    gave = entry.get("gave", "")
    return escape(f"{entry['what']}: {gave}" if gave else str(entry["what"]))


def _parity(entry: ParityTable, technique: str = "") -> str:
    of = ", ".join(part for part in (technique and f"`{technique}`", escape(entry.of)) if part)
    what = f"{of}: " if of else ""
    return f"{what}{escape(entry.against)}, within {entry.within:g} ({_test(entry.test)})"


def _of_uses(id: str, parity: Iterable[TechniqueParity]) -> list[TechniqueParity]:
    used = {use.technique.id for use in load_recipe(id).uses}
    return [entry for entry in parity if entry.technique in used]


def _test(id: str) -> str:
    file, _, name = id.partition("::")
    return f"[`{name}`](../{file})"
