"""Functions are short, or say why they are not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("pcs_core", "pcs_engine", "plugins", "optimizers", "scripts")
LONGEST = 60
"""Lines from `def` to the end, with signature, docstring and comments."""
REASON = re.compile(r"#\s*long: (\w.*)$")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[Path]:
    """Yield the Python files of the project but the tests."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).parts
            if "tests" not in parts and not any(part.startswith(".") for part in parts):
                yield path


def faults(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the complaint of each long function without a reason, and each reason without one."""
    lines = text.splitlines()
    used: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, Function) or node.end_lineno is None:
            continue
        length = node.end_lineno - node.lineno + 1
        # on the line of the def, or on the one above it or above its decorators
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        places = {node.lineno, node.lineno - 1, first - 1} - {0}
        reasons = {at for at in places if REASON.search(lines[at - 1])}
        used |= reasons
        if length > LONGEST and not reasons:
            yield node.lineno, f"{node.name} has {length} lines, and no `# long: <reason>`"
        elif length <= LONGEST and reasons:
            yield node.lineno, f"{node.name} has {length} lines: it needs no reason"
    for at, line in enumerate(lines, start=1):
        if line.lstrip().startswith("#") and REASON.search(line) and at not in used:
            yield at, "a reason that stands at no function"


def test_long_functions_say_why() -> None:
    complaints = [
        f"{path.relative_to(ROOT)}:{line}: {complaint}"
        for path in sources()
        for line, complaint in faults(path.read_text("utf-8"))
    ]
    assert not complaints, "\n".join(complaints)


def test_what_is_refused() -> None:
    body = "    x = 1\n" * LONGEST
    (complaint,) = faults(f"def long():\n{body}")
    assert complaint == (1, f"long has {LONGEST + 1} lines, and no `# long: <reason>`")
    assert not list(faults(f"# long: a table\ndef long():\n{body}"))
    assert not list(faults(f"def long():  # long: a table\n{body}"))
    method = "    @property\n    def long(self):\n" + "        x = 1\n" * LONGEST
    assert not list(faults(f"class A:\n    # long: a table\n{method}"))
    assert len(list(faults(f"class A:\n{method}"))) == 1
    assert len(list(faults(f"# long:\ndef long():\n{body}"))) == 1
    assert [line for line, _ in faults("# long: no more\ndef f():\n    pass\n")] == [2]
    assert [line for line, _ in faults("# long: gone\nx = 1\n")] == [1]
