"""Which mutants are tried: a seeded sample of at least so many, at least so many of each file."""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

Position = tuple[int, int]
Span = tuple[Position, Position]


class Mutation(Protocol):
    """What is asked of a mutation: where it is and what it does."""

    start_pos: Position
    operator_name: str
    occurrence: int


M = TypeVar("M", bound=Mutation)


def annotations(source: str) -> list[Span]:
    """Return where type annotations stand: what is changed there changes no behaviour that a test could see."""
    notes: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            notes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            notes.append(node.returns)
    return [
        ((n.lineno, n.col_offset), (n.end_lineno or n.lineno, n.end_col_offset or 0)) for n in notes
    ]


def candidates(mutations: Sequence[M], source: str) -> list[M]:
    """Return the mutations outside of annotations, in the order of the file."""
    spans = annotations(source)
    kept = [m for m in mutations if not any(a <= tuple(m.start_pos) < b for a, b in spans)]
    return sorted(kept, key=lambda m: (m.start_pos, m.operator_name, m.occurrence))


def shares(sizes: Mapping[str, int], count: int, least: int) -> dict[str, int]:
    """Return how many mutants each file gives: ``least`` or all it has, the rest by its size.

    The sum is at least ``count`` where there are as many.
    """
    share = {name: min(size, least) for name, size in sizes.items()}
    left = {name: size - share[name] for name, size in sizes.items()}
    rest = max(0, count - sum(share.values()))
    total = sum(left.values())
    for name, more in left.items():
        share[name] += min(more, -(-more * rest // total)) if total else 0
    return share


def draw(mutations: Sequence[M], number: int, seed: int, name: str) -> list[M]:
    """Return ``number`` of the mutations in their order, the same ones for a seed and a file's name."""
    indices = random.Random(f"{seed}:{name}").sample(range(len(mutations)), number)
    return [mutations[i] for i in sorted(indices)]
