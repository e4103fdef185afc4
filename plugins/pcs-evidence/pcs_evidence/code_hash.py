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
    return modules_hash({cls.__module__ for cls in classes})


def modules_hash(modules: Iterable[str]) -> str:
    """Return the hash of :func:`code_hash` for classes in ``modules``, of which none is imported."""
    names = {name for module in modules for name in reached(module)}
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}:{_module_hash(name)}\n".encode())
    return digest.hexdigest()


@cache
def reached(module: str) -> frozenset[str]:
    """Return ``module`` and the modules of its top-level package that it imports, at any depth."""
    package = module.partition(".")[0]
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        imports = _imports(ast.parse(source(name)), package)
        waiting += [imported for imported in imports if imported not in reached]
    return frozenset(reached)


def _imports(tree: ast.AST, package: str) -> Iterable[str]:
    """Yield the modules of ``package`` that a module imports."""
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
    """Return the source file of ``module``. ``find_spec`` of a submodule would import what it lies in."""
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not inner:
        path = Path(spec.origin) if spec.has_location and spec.origin else None
        return path if path and path.suffix == ".py" else None
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *inner)
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def source(module: str) -> str:
    """Return the text of ``module``, which is not imported. Raises ImportError where it has no source file."""
    path = _file(module)
    if path is None:
        raise ImportError(f"{module} has no source file, so changes of its code cannot be noticed")
    return path.read_text("utf-8")


@cache
def _module_hash(module: str) -> str:
    return hashlib.sha256(normalised(source(module)).encode()).hexdigest()


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
