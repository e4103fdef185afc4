"""Claims about what the text encoder says, as the denoiser reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pcs_checks.observe import NOUN, PROMPT, TOKEN
from pcs_core.backbone import Attachment, import_tensors, select_sites, tokenise
from pcs_core.data import Fusion, TokenEdit
from pcs_core.data.check import CheckRow
from pcs_testing import build_fusion, conditioning

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_checks.observe import Observation


def ends_in(
    seen: Observation, *, use: str, rows: int, scale: float, start: str
) -> Iterator[CheckRow]:
    """A prompt's encoding ends in ``rows`` learned rows times ``scale``, which began at those of ``start``.

    All rows in front of them are what the untuned encoder says of the prompt, bit for bit.
    """
    learned = [t for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")]
    width = plain(seen, PROMPT.replace(TOKEN, NOUN)).shape[-1]
    wrong = sum(tuple(t.shape) != (rows, width) for t in learned)
    yield CheckRow.compare("learned tensors", len(learned), "==", 1)
    yield CheckRow.compare(f"tensors that are not {rows} rows of the text's width", wrong, "==", 0)
    if wrong or not learned:
        return
    read = conditioning(seen.artifact, seen.backbone, PROMPT).text[0]
    base = plain(seen, PROMPT.replace(TOKEN, NOUN))
    before = float((read[:-rows] - base[:-rows]).abs().max())
    yield CheckRow.compare("largest change of a row in front of them", before, "==", 0.0)
    behind = float((read[-rows:] - scale * learned[0].to(read)).abs().max())
    yield CheckRow.compare(
        f"largest difference of the last from {scale} of them", behind, "<=", 1e-6
    )
    first = next(iter(seen.notes.starts.values()), {})
    unknown = torch.full((rows, width), torch.nan)
    began = next((t for n, t in first.items() if n.endswith("/rows")), unknown)
    away = plain(seen, start.replace("{noun}", NOUN))[-rows:] - began.reshape(-1, width)
    yield CheckRow.compare("largest difference of their start", float(away.abs().max()), "<=", 1e-6)


@torch.no_grad()
def by_stage(seen: Observation, *, use: str, stages: int) -> Iterator[CheckRow]:
    """A word of ``use`` stays within each of ``stages`` stretches of the noise level, and in all layers.

    No two stretches have the same word.
    """
    tensors = dict(seen.artifact.tensors)
    fusion = build_fusion(seen.recipe, [seen.subject(1)], seen.backbone)
    import_tensors(fusion, tensors)
    edits = [e for e in fusion.edits if isinstance(e, TokenEdit) and e.owner == use]
    yield CheckRow.compare(f"words of {use}", len(edits), "==", 1)
    if len(edits) != 1:
        return
    edit = edits[0].eval()
    times = (torch.arange(3 * stages) + 0.5) / (3 * stages)  # three levels in each stretch
    words = edit.layer(times, 2, torch.zeros(len(times), dtype=torch.long)).flatten(2)
    layers = float((words[:, 0] - words[:, 1]).abs().max())
    yield CheckRow.compare("largest difference between layers", layers, "==", 0.0)
    of = words[:, 0].reshape(stages, 3, -1)
    within = float((of - of[:, :1]).abs().max())
    yield CheckRow.compare("largest difference within a stretch", within, "<=", 1e-6)
    apart = torch.cdist(of[:, 0], of[:, 0]) + torch.eye(stages)
    yield CheckRow.compare("least distance between stretches", float(apart.min()), ">", 1e-3)


def text_prefix(seen: Observation, *, use: str, length: int, layers: int) -> Iterator[CheckRow]:
    """The text encoder's last ``layers`` have ``length`` keys and values of ``use`` that all tokens read."""
    sites = select_sites(seen.backbone.sites, "self", part="text")
    numbers = sorted({int(site.block.rpartition(".")[2]) for site in sites})[-layers:]
    expected = {
        f"{use}/{site.name}/{part}": (length, site.width)
        for site in sites
        if int(site.block.rpartition(".")[2]) in numbers
        for part in ("keys", "values")
    }
    stored = {n: tuple(t.shape) for n, t in seen.artifact.tensors.items()}
    of_use = {n: shape for n, shape in stored.items() if n.startswith(f"{use}/")}
    wrong = sum(of_use.get(n) != shape for n, shape in expected.items())
    yield CheckRow.compare(f"layers without {length} of their own", wrong, "==", 0)
    others = len(of_use.keys() - expected)
    yield CheckRow.compare("layers with some beside these", others, "==", 0)
    for text in ("", "a cat"):
        moved = conditioning(seen.artifact, seen.backbone, text).text[0] - plain(seen, text)
        least = float(moved.abs().amax(-1).min())
        yield CheckRow.compare(f"least change of a token of {text!r}", least, ">", 1e-6)


def spans_prompts(
    seen: Observation, *, use: str, prompts: int, vectors: int, std: float
) -> Iterator[CheckRow]:
    """A word of ``use`` is ``prompts`` sets of ``vectors`` rows that began as noise of ``std``.

    Pictures of two seeds read two texts, and one text where nothing is spread.
    """
    table: Any = seen.backbone.embedding.weight
    width = int(table.shape[1])
    of_use = [t for n, t in seen.artifact.tensors.items() if n.startswith(f"{use}/")]
    wrong = sum(tuple(t.shape) != (prompts, vectors, width) for t in of_use)
    yield CheckRow.compare("learned words", len(of_use), "==", 1)
    yield CheckRow.compare(f"words that are not {prompts} times {vectors} rows", wrong, "==", 0)
    first = next(iter(seen.notes.starts.values()), {})
    began = next((t for n, t in first.items() if n.startswith(f"{use}/")), torch.zeros(2))
    away = abs(float(began.std()) / std - 1)
    error = 4 / (2 * began.numel()) ** 0.5  # four standard errors of a standard deviation
    yield CheckRow.compare("how far their start's deviation is off", away, "<=", error)
    middle = abs(float(began.mean())) / std
    yield CheckRow.compare(
        "how far their start's mean is off", middle, "<=", 4 / began.numel() ** 0.5
    )
    both = seen.draw(count=2)
    still = seen.draw(count=2, strengths={"distribution.spread": 0.0})
    spread = float((both - still).flatten(1).abs().amax(1).min())
    yield CheckRow.compare("pictures moved by their own draw", spread, ">", 1e-6)


@torch.no_grad()
def plain(seen: Observation, text: str) -> Tensor:
    """Return what the untuned encoder says of ``text`` [l d]."""
    backbone = seen.backbone
    with Attachment(backbone, Fusion()) as net:
        return net.encode_text(tokenise([text], backbone.tokenizer)).text[0]


@torch.no_grad()
def cells(seen: Observation, *, use: str, of: Mapping[str, Sequence[Any]]) -> Iterator[CheckRow]:
    """Each word of ``use`` is read in its layers and at its noise levels (``of``), and nowhere else."""
    fusion = build_fusion(seen.recipe, [seen.subject(1)], seen.backbone)
    import_tensors(fusion, dict(seen.artifact.tensors))
    words = {e.key(0): e for e in fusion.edits if isinstance(e, TokenEdit) and e.owner == use}
    expected = {f"<{TOKEN.strip('<>')}.{name}>": cell for name, cell in of.items()}
    stray = words.keys() ^ expected.keys()
    yield CheckRow.compare("words beside the method's, or missing", len(stray), "==", 0)
    sites = select_sites(seen.backbone.sites, "cross")
    scales = sorted({site.scale for site in sites})
    half = scales[(len(scales) - 1) // 2]
    fine = torch.tensor([site.scale <= half for site in sites])
    times = (torch.arange(10) + 0.5) / 10
    wrong, places = 0, 0
    for token in words.keys() & expected.keys():
        layers, least, most = expected[token]
        rows = words[token].layer(times, len(sites), torch.zeros(10, dtype=torch.long))[:, :, 0]
        learned = seen.artifact.tensors[f"{use}/{token}/rows"][0]
        read = (rows - learned).abs().amax(-1) < 1e-6
        meant = ((times >= least) & (times < most))[:, None] & (fine == (layers == "fine"))[None]
        wrong += int((read != meant).sum())
        places += read.numel()
    yield CheckRow.compare("layers times noise levels that were looked at", places, ">", 0)
    yield CheckRow.compare(
        "of these, where a word is read and should not be, or is not", wrong, "==", 0
    )
