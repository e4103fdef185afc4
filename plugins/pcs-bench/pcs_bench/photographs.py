"""Which metric can be trusted on photographs: does a photograph know its own subject again?

Every photograph of a suite is scored against the other references of its subject and against those of
every other subject. A metric of fidelity should score its own higher. No network is asked to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcs_bench import metrics
from pcs_core.errors import InputError, PcsError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_bench.suites import Suite

SIZE = 512
"""Side that photographs are cropped and resized to, in pixels."""


@dataclass(frozen=True)
class Recognition:
    """How a metric tells subjects apart. ``same``, ``other``, ``kind``: mean scores of photographs
    against their own subject, other subjects, and other subjects of the same noun.

    ``auc`` is the probability that an own score beats another subject's, ``auc_kind`` that of the same
    noun (None where a noun occurs once); 0.5 is chance. ``nearest`` is the share of photographs whose
    own subject scores best of all. ``why`` says why it was not asked.
    """

    metric: str
    title: str
    subjects: int
    photographs: int
    same: float | None = None
    other: float | None = None
    kind: float | None = None
    auc: float | None = None
    auc_kind: float | None = None
    nearest: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Album:
    """The photographs [m 3 s s] of one subject."""

    name: str
    noun: str
    pictures: Tensor


def albums(suite: Suite, limit: int = 0) -> list[Album]:
    """Read the subjects of a suite.

    Raises
    ------
    InputError
        A subject is missing, or there are not two of them.
    """
    import torch

    from pcs_core import fit_image

    read = []
    for subject in suite.subjects[: limit or None]:
        images = subject.folder().images if callable(subject.folder) else ()
        if len(images) < 2:
            raise InputError(
                f"{subject.name!r} has {len(images)} pictures: it takes two to compare"
            )
        pictures = torch.stack([fit_image(image, (SIZE, SIZE)) for image in images])
        read.append(Album(subject.name, subject.noun, pictures))
    if len(read) < 2:
        raise InputError(f"suite {suite.id!r}: it takes two subjects to tell apart")
    return read


def recognise(albums: Sequence[Album], id: str) -> Recognition:
    """Ask one metric of pictures and references about all photographs.

    Raises
    ------
    InputError
        The metric is none of similarity.
    """
    metric = metrics.get(id)
    if set(metric.needs) != {"references"} or (metric.per, metric.better) != ("picture", "higher"):
        raise InputError(
            f"metric {id!r} is no similarity of a picture with references: give another"
        )
    count = sum(len(a.pictures) for a in albums)
    try:
        scores = [[_scores(metric, album, of) for of in albums] for album in albums]
    except PcsError as error:
        return Recognition(id, metric.title, len(albums), count, why=str(error))
    same: list[float] = []
    other: list[float] = []
    kind: list[float] = []
    nearest = 0
    for i, album in enumerate(albums):
        for k in range(len(album.pictures)):
            mine = scores[i][i][k]
            rest = {j: scores[i][j][k] for j in range(len(albums)) if j != i}
            same.append(mine)
            other += rest.values()
            kind += [value for j, value in rest.items() if albums[j].noun == album.noun]
            nearest += mine > max(rest.values())
    return Recognition(
        id,
        metric.title,
        len(albums),
        count,
        same=sum(same) / len(same),
        other=sum(other) / len(other),
        kind=sum(kind) / len(kind) if kind else None,
        auc=auc(same, other),
        auc_kind=auc(same, kind) if kind else None,
        nearest=nearest / len(same),
    )


def _scores(metric: Any, album: Album, of: Album) -> list[float]:
    """Return a score per photograph of ``album`` against ``of``; never against itself."""
    import torch

    if album is not of:
        scores: list[float] = metric.score(album.pictures, references=of.pictures).tolist()
        return scores
    row = []
    for k in range(len(album.pictures)):
        rest = torch.cat([album.pictures[:k], album.pictures[k + 1 :]])
        row += metric.score(album.pictures[k : k + 1], references=rest).tolist()
    return row


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    """Return the probability that one of ``high`` exceeds one of ``low``, ties counting one half."""
    import numpy as np

    a, b = np.asarray(high)[:, None], np.asarray(low)[None]
    return float((a > b).mean() + (a == b).mean() / 2)


def about_masks(albums: Sequence[Album]) -> str:
    """Say how much of each photograph U2-Net takes for the subject."""
    import numpy as np

    from pcs_bench.metrics.u2net import u2net

    shares = [float(v) for a in albums for v in u2net()(a.pictures).mean((1, 2, 3))]
    low, middle, high = np.quantile(shares, [0.1, 0.5, 0.9])
    return (
        f"U2-Net masks of {len(shares)} photographs: median {middle:.0%} of the picture "
        f"(10% to 90%: {low:.0%} to {high:.0%}), {sum(s < 0.01 for s in shares)} nearly empty"
    )


def about_faces(albums: Sequence[Album]) -> str:
    """Say in how many photographs MTCNN finds a face."""
    from pcs_bench.metrics.facenet import facenet

    encoder = facenet()
    with_face = {a.name: sum(len(encoder.faces(p)) > 0 for p in a.pictures) for a in albums}
    where = ", ".join(f"{name} {n}" for name, n in with_face.items() if n) or "none"
    count = sum(len(a.pictures) for a in albums)
    return f"MTCNN finds a face in {sum(with_face.values())} of {count} photographs ({where})"
