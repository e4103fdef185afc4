"""Claims about words of single references, and about what a loss leaves alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_checks.observe import TOKEN
from pcs_core.backbone import Attachment, import_tensors, tokenise
from pcs_core.data import TokenEdit
from pcs_core.data.check import CheckRow
from pcs_testing import build_fusion

if TYPE_CHECKING:
    from pcs_checks.observe import Observation
    from pcs_core.data import Personalization


@torch.no_grad()
def own_words(seen: Observation, *, use: str, start: str) -> Iterator[CheckRow]:
    """Each reference has rows of ``use``, one for each token of ``start``, which its own caption alone reads.

    No two references have the same rows, and a drawing knows none of them.
    """
    subject = seen.subject(1)
    fusion = build_fusion(seen.recipe, [subject], seen.backbone)
    import_tensors(fusion, dict(seen.artifact.tensors))
    edits = [e for e in fusion.edits if isinstance(e, TokenEdit) and e.owner == use]
    count = len(subject.images)
    yield CheckRow.compare(f"words of {use}", len(edits), "==", count)
    if len(edits) != count:
        return
    rows = torch.stack([e.vocabulary()[0] for e in edits])
    tokens = len(seen.backbone.tokenizer.encode(start))
    yield CheckRow.compare(f"rows of a word that begins as {start!r}", rows.shape[1], "==", tokens)
    apart = torch.cdist(rows.flatten(1), rows.flatten(1)) + torch.eye(count)
    yield CheckRow.compare("least distance of two references' words", float(apart.min()), ">", 1e-6)
    texts = [f"a photo of {TOKEN} {edit.key(0)}" for edit in edits]
    backbone = seen.backbone

    def read(off: int) -> torch.Tensor:
        """Return what the encoder says of each text [n l d], one edit's rows moved (-1: none's)."""
        kept = [e.vocabulary for e in edits]
        if off >= 0:
            edits[off].vocabulary = lambda: kept[off]() + 0.5  # type: ignore[method-assign]
        try:
            with Attachment(backbone, fusion, fitting=True) as net:
                prompts = tokenise(texts, backbone.tokenizer, tokens=fusion.of(TokenEdit))
                return net.encode_text(prompts, torch.zeros(count, dtype=torch.long)).text
        finally:
            if off >= 0:
                del edits[off].vocabulary

    plain = read(-1)
    mine, others = [], []
    for number in range(count):
        moved = (read(number) - plain).flatten(1).abs().amax(1)
        mine.append(float(moved[number]))
        others += [float(moved[i]) for i in range(count) if i != number]
    yield CheckRow.compare("least change of a text by its own word", min(mine), ">", 1e-6)
    yield CheckRow.compare("largest change of another's", max(others), "==", 0.0)
    modes = sum(e.mode != "fit" for e in edits)
    yield CheckRow.compare("words that a drawing knows", modes, "==", 0)


def spares(seen: Observation, *, term: str, glob: str, phase: str = "") -> Iterator[CheckRow]:
    """A loss is there, reaches something, and gives no gradient to tensors of ``glob``."""
    _ = seen.artifact
    name = phase or seen.recipe.phases[0].name
    steps = [s for s in seen.notes.steps if s.phase == name and term in s.terms]
    yield CheckRow.compare(f"{name}: steps with {term}", len(steps), ">", 0)
    reached = frozenset().union(*(s.terms[term].reached for s in steps)) if steps else frozenset()
    yield CheckRow.compare(f"{name}: tensors that {term} reaches", len(reached), ">", 0)
    owned = [n for n in seen.notes.trained.get(name, ()) if fnmatchcase(n, glob)]
    yield CheckRow.compare(f"{name}: tensors of {glob}", len(owned), ">", 0)
    touched = sum(fnmatchcase(n, glob) for n in reached)
    yield CheckRow.compare(f"{name}: of these, that {term} reaches", touched, "==", 0)


def nearer(
    seen: Observation, *, use: str, positive: Sequence[str], negative: Sequence[str], by: str
) -> Iterator[CheckRow]:
    """With the setting ``by`` the rows of ``use`` end nearer to positive words, against the negative ones.

    How near is the mean cosine with the former less that with the latter.
    """
    table: Any = seen.backbone.embedding.weight

    def mean_row(word: str) -> torch.Tensor:
        row: torch.Tensor = table[seen.backbone.tokenizer.encode(word)].detach().float().mean(0)
        return F.normalize(row, dim=-1)

    def lead(artifact: Personalization) -> float:
        rows = [t.flatten(0, -2) for n, t in artifact.tensors.items() if n.startswith(f"{use}/")]
        if not rows:
            return float("nan")
        flat = F.normalize(torch.cat(rows).float(), dim=-1)
        means = [
            (flat @ torch.stack([mean_row(w) for w in words]).T).mean()
            for words in (positive, negative)
        ]
        return float(means[0] - means[1])

    gain = lead(seen.variant([by]).artifact) - lead(seen.artifact)
    yield CheckRow.compare(f"lead of the positive words that {by} gains", gain, ">", 1e-4)
