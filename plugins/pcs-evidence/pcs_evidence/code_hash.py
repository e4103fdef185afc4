"""A hash of the code that a technique runs: what it does, not how it is explained or laid out."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import io
import tokenize
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_LAYOUT = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER})


def code_hash(classes: Iterable[type]) -> str:
    """Return the sha256 (hex) of the modules that define ``classes`` and of what they import.

    Imports are followed inside the distribution's own package, so that a network in a file beside
    the technique counts, and the core and other libraries do not. Comments, docstrings, blank lines
    and the order of ``classes`` change nothing.

    Raises
    ------
    ImportError
        A class comes from a module without a source file.
    """
    names = {name for cls in classes for name in _reached(cls.__module__)}
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}:{_module_hash(name)}\n".encode())
    return digest.hexdigest()


@cache
def _reached(module: str) -> frozenset[str]:
    """Return ``module`` and the modules of its top-level package that it imports, at any depth."""
    package = module.partition(".")[0]
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        imports = _imports(ast.parse(_source(name)), package)
        waiting += [imported for imported in imports if imported not in reached]
    return frozenset(reached)


def _imports(tree: ast.AST, package: str) -> Iterable[str]:
    """Yield the modules of ``package`` that a module imports. Asking for others would import them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            yield from (name for name in names if name.partition(".")[0] == package)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
            assert node.module is not None
            yield node.module
            # "from package import module" names a module, "from module import thing" does not
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if _file(name) is not None:
                    yield name


def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or not spec.has_location or not spec.origin:
        return None
    path = Path(spec.origin)
    return path if path.suffix == ".py" else None


def _source(module: str) -> str:
    path = _file(module)
    if path is None:
        raise ImportError(f"{module} has no source file, so its code cannot be told from another")
    return path.read_text("utf-8")


@cache
def _module_hash(module: str) -> str:
    return hashlib.sha256(normalised(_source(module)).encode()).hexdigest()


def normalised(source: str) -> str:
    """Return Python ``source`` without comments, docstrings, blank lines and what classes say to tests.

    One token a line. The tokens are the same for all Python versions that read the source: what 3.12 splits an
    f-string into is joined again.
    """
    documentation, for_tests = _docstring_lines(source), _lines_for_tests(source)
    parts: list[str] = []
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if token.type in _LAYOUT or token.start[0] in for_tests:
            continue
        if token.type == tokenize.STRING and token.start in documentation:
            continue
        if token.type == tokenize.NEWLINE:
            if parts and parts[-1] != "\n":
                parts.append("\n")
        elif token.type in (tokenize.INDENT, tokenize.DEDENT):
            parts.append(name)
        elif name == "FSTRING_START":
            depth += 1
            parts.append(token.string)
        elif name == "FSTRING_END":
            depth -= 1
            parts[-1] += token.string
        elif depth:
            text = token.string
            parts[-1] += "".join(text.split())
        elif (
            token.type == tokenize.STRING and "f" in token.string[: token.string.find('"')].lower()
        ):
            parts.append("".join(token.string.replace("{{", "{").replace("}}", "}").split()))
        else:
            parts.append(token.string)
    return "\n".join(parts)


def _docstring_lines(source: str) -> set[tuple[int, int]]:
    """Return the positions (line, column) of strings that stand as statements of their own."""
    return {
        (node.value.lineno, node.value.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def _lines_for_tests(source: str) -> set[int]:
    """Return the lines on which classes set ``tiny`` and its like: settings of tests, which no fit reads."""
    lines: set[int] = set()
    for cls in ast.walk(ast.parse(source)):
        for node in cls.body if isinstance(cls, ast.ClassDef) else ():
            targets = node.targets if isinstance(node, ast.Assign) else ()
            if any(
                isinstance(t, ast.Name) and t.id.startswith(("tiny", "starts_away"))
                for t in targets
            ):
                lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines
