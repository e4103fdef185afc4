"""Write what each distribution may import, for import-linter, as the tree has it.

    python scripts/import_contracts.py [FILE]      (default: build/import-contracts.toml)

Nothing is listed by hand: a distribution is a folder with a `pyproject.toml` and a package. One with an
entry point in `pcs.plugins` is a plugin; one without is a library that a plugin may import where it declares
it among its dependencies (`pcs-cli` for a command, `pcs-testing` for a check). A model library
(`MODEL_LIBRARIES`) or a private part of the core may be imported where the plugin's own `pyproject.toml`
says so:

    [tool.pcs.imports]
    diffusers = ["pcs_mini"]                      # the modules that may; the package stands for all of it
    "pcs_engine" = ["pcs_formats.exporting"]
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "import-contracts.toml"
MODEL_LIBRARIES = ("diffusers", "transformers", "peft")
CORE, ENGINE = "pcs_core", "pcs_engine"
PRIVATE = (*(f"{CORE}.{part}" for part in ("assembly", "catalogue", "merge", "storage")), ENGINE)
"""What plugins reach through `pcs_core` itself only."""


@dataclass(frozen=True)
class Distribution:
    """One distribution of this repository: its package, whether it is a plugin, and what it declares."""

    package: str
    plugin: bool
    requires: frozenset[str]
    imports: dict[str, list[str]]


def distributions(root: Path = ROOT) -> list[Distribution]:
    """Return the distributions beside the core that hold a package, in order of their names."""
    projects = (*root.glob("plugins/*/pyproject.toml"), *root.glob("optimizers/*/pyproject.toml"))
    result = []
    for path in sorted(projects, key=lambda p: p.parent.name):
        package = path.parent.name.replace("-", "_")
        if not (path.parent / package / "__init__.py").is_file():
            continue
        table = tomllib.loads(path.read_text("utf-8"))
        project = table["project"]
        lines = [*project.get("dependencies", [])]
        for extra in project.get("optional-dependencies", {}).values():
            lines += extra
        result.append(
            Distribution(
                package=package,
                plugin="pcs.plugins" in project.get("entry-points", {}),
                requires=frozenset(_package(line) for line in lines),
                imports=table.get("tool", {}).get("pcs", {}).get("imports", {}),
            )
        )
    return result


def contracts(distributions: list[Distribution]) -> list[dict[str, Any]]:
    """Return the contracts, as import-linter reads them, for these distributions."""
    plugins = [d.package for d in distributions if d.plugin]
    libraries = [d.package for d in distributions if not d.plugin]
    rules: list[dict[str, Any]] = [
        _independence("plugins-apart", "Plugins do not import each other", plugins),
        _forbidden(
            "core-below", "The core imports no plugin", [CORE, ENGINE], [*plugins, *libraries]
        ),
        _forbidden("libraries-below", "Libraries import no plugin", libraries, plugins),
    ]
    for library in libraries:
        sources = [
            d.package for d in distributions if d.package != library and library not in d.requires
        ]
        rules.append(_forbidden(library, f"Who imports {library} declares it", sources, [library]))
    for part in PRIVATE:
        rules.append(_declared(part, [d for d in distributions if d.plugin]))
    for library in MODEL_LIBRARIES:
        rule = _declared(library, distributions)
        rules.append(rule | {"source_modules": [CORE, ENGINE, *rule["source_modules"]]})
    return [rule for rule in rules if rule.get("source_modules") or rule.get("modules")]


def document(distributions: list[Distribution]) -> str:
    """Return the file for import-linter."""
    head = {
        "root_packages": [CORE, ENGINE, *(d.package for d in distributions)],
        "include_external_packages": True,
        "exclude_type_checking_imports": True,
    }
    text = "[tool.importlinter]\n" + _lines(head)
    for rule in contracts(distributions):
        text += "\n[[tool.importlinter.contracts]]\n" + _lines(rule)
    return text


def _independence(id: str, name: str, modules: list[str]) -> dict[str, Any]:
    return {"id": id, "name": name, "type": "independence", "modules": modules}


def _declared(target: str, distributions: list[Distribution]) -> dict[str, Any]:
    """Return the contract that only the modules which their own distribution names import ``target``."""
    sources, exceptions = [], []
    for one in distributions:
        modules = one.imports.get(target, [])
        if one.package not in modules:
            sources.append(one.package)
            inside = f"{target}.**" if target in PRIVATE else target
            exceptions += [f"{module} -> {inside}" for module in modules]
            exceptions += [f"{module} -> {target}" for module in modules if inside != target]
    rule = _forbidden(target, f"Only who says so imports {target}", sources, [target])
    return rule | {"ignore_imports": exceptions, "unmatched_ignore_imports_alerting": "none"}


def _forbidden(id: str, name: str, sources: list[str], targets: list[str]) -> dict[str, Any]:
    return {
        "id": id,
        "name": name,
        "type": "forbidden",
        "source_modules": sources,
        "forbidden_modules": targets,
        "allow_indirect_imports": True,
    }


def _lines(table: dict[str, Any]) -> str:
    # strings, booleans and lists of strings are written alike in JSON and TOML
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def _package(requirement: str) -> str:
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-.]+", "_", name[0]).lower() if name else ""


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(document(distributions()), "utf-8")
