"""Which metric can be trusted: each against pictures of the Mini world whose truth is known.

A case draws pictures with a truth (how many words of the prompt are right, how alike the thing is, how
much of a reference is repeated) and asks the metric to put them in order. What is reported is the rank
correlation (Spearman's) of score and truth: near 1, the metric can be trusted with that question. Fidelity
metrics are also asked about copying, where they should not rise: a positive correlation there is the
reward for copying.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pcs_bench import metrics
from pcs_core.errors import PcsError

if TYPE_CHECKING:
    from torch import Tensor

WORLD = "mini.held-out"
THINGS = ("backpack", "bus", "dog", "guitar", "mushroom", "owl", "cat", "rocket")
STYLE, OTHER_STYLE = "outlined", "glossy"
PLACES = ("beach", "snow", "night", "red", "blue", "grass")
FAMILIES = {
    "text": ("mini.clip-t", "clip-t", "image-reward", "hps-v2", "pick-score"),
    "likeness": ("mini.clip-i", "mini.masked-i", "clip-i", "dino-i", "dinov2-i"),
    "copying": ("mini.copy", "copy", "mini.clip-i", "clip-i", "dino-i"),
    "background": ("mini.background-leak",),
    "dropping": ("mini.prompt-drop", "prompt-drop"),
    "variety": ("mini.diversity", "lpips-diversity"),
    "distribution": ("mini.fid", "fid"),
    "both": ("mini.pair-subjects", "pair-subjects", "mini.clip-i"),
    "mixing": ("mini.identity-mixing", "identity-mixing"),
}
"""Case -> the metrics that are asked, as far as they are installed."""


@dataclass(frozen=True)
class Case:
    """Pictures with a truth each, larger where more of what the case names is there.

    Each of ``groups`` holds the keyword arguments of one call and the truths of its pictures (one truth,
    for a metric of sets).
    """

    name: str
    truth: str
    groups: list[tuple[dict[str, Any], list[float]]] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """How a metric did on a case; ``why`` says why it was not asked."""

    case: str
    truth: str
    metric: str
    correlation: float | None
    count: int
    why: str = ""


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the rank correlation, ties at their mean rank; NaN where one of them is constant."""
    import torch

    x, y = torch.tensor(_ranks(a)), torch.tensor(_ranks(b))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.square().sum() * y.square().sum()).sqrt())


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or values[order[end]] != values[order[start]]:
            for at in order[start:end]:
                ranks[at] = (start + end - 1) / 2
            start = end
    return ranks


def validate(subjects: int = 6, seed: int = 0) -> list[Finding]:
    """Ask every metric that has a case, on this many subjects of the world."""
    from pcs_core import installed

    studio = installed().get("datasets", WORLD)()
    known = set(metrics.ids())
    findings = []
    for name, build in _CASES.items():
        case = build(studio, THINGS[: max(2, subjects)], seed)
        findings += [_ask(case, id) for id in FAMILIES[name] if id in known]
    return findings


def _ask(case: Case, id: str) -> Finding:
    metric = metrics.get(id)
    scores: list[float] = []
    truths: list[float] = []
    try:
        for given, truth in case.groups:
            scores += metric.score(**given).float().flatten().tolist()
            truths += truth
    except PcsError as error:
        return Finding(case.name, case.truth, id, None, 0, str(error))
    return Finding(case.name, case.truth, id, spearman(scores, truths), len(scores))


def _pictures(rendered: Sequence[Any]) -> Tensor:
    import torch

    return torch.stack([picture.image for picture in rendered])


def _masks(rendered: Sequence[Any]) -> Tensor:
    import torch

    return torch.stack([picture.masks[0] for picture in rendered])


def _name(thing: str, style: str = STYLE) -> str:
    return f"{thing}/{style}"


def _said(studio: Any, thing: str, place: str) -> str:
    return f"a photo of a {thing} {studio.phrase(place)}"


def text(studio: Any, things: Sequence[str], seed: int) -> Case:
    """Prompts of which thing and place, one of them, or neither is in the picture."""
    case = Case("text", "right words of the prompt: thing, place")
    for i, thing in enumerate(things):
        other = things[(i + 1) % len(things)]
        pictures, prompts, truth = [], [], []
        for j, place in enumerate(PLACES[:4]):
            elsewhere = PLACES[(j + 2) % 4]
            picture = studio.picture([_name(thing)], seed=seed + j, place=place)
            for said, right in (
                (_said(studio, thing, place), 2.0),
                (_said(studio, thing, elsewhere), 1.0),
                (_said(studio, other, place), 1.0),
                (_said(studio, other, elsewhere), 0.0),
            ):
                pictures.append(picture)
                prompts.append(said)
                truth.append(right)
        case.groups.append(({"pictures": _pictures(pictures), "prompts": prompts}, truth))
    return case


def likeness(studio: Any, things: Sequence[str], seed: int) -> Case:
    """The same thing elsewhere, its class in another style, another thing at a reference's place."""
    case = Case("likeness", "same thing 2, its class 1, another thing where a reference is 0")
    for i, thing in enumerate(things):
        references = studio.references(_name(thing), 5, seed=seed)
        seen = {r.place for r in references}
        places = [p for p in PLACES if p not in seen]
        other = _name(things[(i + 1) % len(things)])
        drawn = (
            [
                studio.picture([_name(thing)], seed=seed + j, place=p)
                for j, p in enumerate(places[:3])
            ],
            [
                studio.picture([_name(thing, OTHER_STYLE)], seed=seed + j, place=p)
                for j, p in enumerate(places[:3])
            ],
            [
                studio.picture([other], seed=seed + j, place=r.place)
                for j, r in enumerate(references[:3])
            ],
        )
        given = {
            "pictures": _pictures([p for row in drawn for p in row]),
            "references": _pictures(references),
            "masks": _masks(references),
        }
        case.groups.append((given, [2.0 - k for k, row in enumerate(drawn) for _ in row]))
    return case


def copying(studio: Any, things: Sequence[str], seed: int) -> Case:
    """A reference, one shifted, the thing anew where a reference was, and anew elsewhere."""
    import torch

    case = Case(
        "copying", "a reference 3, shifted 2, same place 1, elsewhere 0 (fidelity: should not rise)"
    )
    for thing in things:
        references = studio.references(_name(thing), 5, seed=seed)
        places = [p for p in PLACES if p not in {r.place for r in references}]
        exact = _pictures(references[:2])
        same = [
            studio.picture([_name(thing)], seed=seed + 9, place=r.place) for r in references[:2]
        ]
        anew = [studio.picture([_name(thing)], seed=seed + 9, place=p) for p in places[:2]]
        pictures = torch.cat([exact, exact.roll((5, 7), (2, 3)), _pictures(same), _pictures(anew)])
        given = {"pictures": pictures, "references": _pictures(references)}
        case.groups.append((given, [3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 0.0, 0.0]))
    return case


def background(studio: Any, things: Sequence[str], seed: int) -> Case:
    """Another thing at a reference's place, and at other places."""
    case = Case("background", "place of a reference 1, another place 0; the thing is another")
    for i, thing in enumerate(things):
        references = studio.references(_name(thing), 5, seed=seed)
        places = [p for p in PLACES if p not in {r.place for r in references}][:3]
        other = [_name(things[(i + 1) % len(things)])]
        pictures = [
            studio.picture(other, seed=seed + j, place=p)
            for j, p in enumerate([*(r.place for r in references[:3]), *places])
        ]
        given = {
            "pictures": _pictures(pictures),
            "references": _pictures(references),
            "masks": _masks(references),
        }
        case.groups.append((given, [1.0] * 3 + [0.0] * len(places)))
    return case


def dropping(studio: Any, things: Sequence[str], seed: int) -> Case:
    """The thing where the prompt says, and where a reference was whatever the prompt says."""
    case = Case("dropping", "prompt ignored 1, followed 0")
    for thing in things:
        references = studio.references(_name(thing), 5, seed=seed)
        places = [p for p in PLACES if p not in {r.place for r in references}][:3]
        follows = [studio.picture([_name(thing)], seed=seed + 1, place=p) for p in places]
        ignores = [
            studio.picture([_name(thing)], seed=seed + 1, place=r.place) for r in references[:3]
        ]
        untuned = [
            studio.picture([_name(thing, OTHER_STYLE)], seed=seed + 2, place=p) for p in places
        ]
        count = min(len(places), 3)
        given = {
            "pictures": _pictures([*follows, *ignores[:count]]),
            "prompts": [_said(studio, thing, p) for p in places] * 2,
            "references": _pictures(references),
            "untuned": _pictures(untuned * 2),
        }
        case.groups.append((given, [0.0] * count + [1.0] * count))
    return case


def variety(studio: Any, things: Sequence[str], seed: int) -> Case:
    """Sets of four pictures of one prompt, of which one to four differ."""
    case = Case("variety", "different pictures among four")
    for thing in things:
        four = [studio.picture([_name(thing)], seed=seed + j) for j in range(4)]
        for distinct in (1, 2, 3, 4):
            row = [four[min(j, distinct - 1)] for j in range(4)]
            given = {"pictures": _pictures(row), "prompts": [f"a photo of a {thing}"] * 4}
            case.groups.append((given, [float(distinct)]))
    return case


def distribution(studio: Any, things: Sequence[str], seed: int) -> Case:
    """Sets of eight, of which a share is of another thing."""
    case = Case("distribution", "share that is another thing")
    for i, thing in enumerate(things):
        other = things[(i + 1) % len(things)]
        references = _pictures(studio.references(_name(thing), 8, seed=seed + 50))
        for wrong in (0, 2, 4, 8):
            row = [
                studio.picture([_name(other if j < wrong else thing)], seed=seed + j)
                for j in range(8)
            ]
            given = {"pictures": _pictures(row), "references": references}
            case.groups.append((given, [wrong / 8]))
    return case


def both(studio: Any, things: Sequence[str], seed: int) -> Case:
    """Both subjects of a pair, one of them beside something else, and neither."""
    import torch

    case = Case("both", "subjects of the pair that are there")
    for i, thing in enumerate(things):
        second, third = things[(i + 1) % len(things)], things[(i + 2) % len(things)]
        fourth = things[(i + 3) % len(things)]
        references = torch.cat(
            [_pictures(studio.references(_name(t), 4, seed=seed)) for t in (thing, second)]
        )
        rows = [((thing, second), 2.0), ((thing, third), 1.0), ((third, second), 1.0)]
        if len(things) > 3:
            rows.append(((third, fourth), 0.0))
        pictures = [
            studio.picture([_name(a), _name(b)], seed=seed + 3, relation="next to", place="white")
            for (a, b), _ in rows
        ]
        given = {"pictures": _pictures(pictures), "references": references}
        case.groups.append((given, [truth for _, truth in rows]))
    return case


def mixing(studio: Any, things: Sequence[str], seed: int) -> Case:
    """Two subjects side by side, each faded into the other by a known share."""
    import torch

    case = Case("mixing", "share of the other subject in each")
    for i, thing in enumerate(things):
        second = things[(i + 1) % len(things)]
        names = (_name(thing), _name(second))
        references = torch.cat([_pictures(studio.references(n, 4, seed=seed)) for n in names])
        alone = [studio.picture([n], seed=seed + 4, place="white", size=64).image for n in names]
        pictures = []
        for share in (0.0, 0.15, 0.3, 0.45):
            one = alone[0] * (1 - share) + alone[1] * share
            other = alone[1] * (1 - share) + alone[0] * share
            row = torch.cat([one, other], 2)
            pictures.append(torch.nn.functional.pad(row, (0, 0, 32, 32), value=0.96))
        given = {"pictures": torch.stack(pictures), "references": references}
        case.groups.append((given, [0.0, 0.15, 0.3, 0.45]))
    return case


_CASES: dict[str, Callable[[Any, Sequence[str], int], Case]] = {
    "text": text,
    "likeness": likeness,
    "copying": copying,
    "background": background,
    "dropping": dropping,
    "variety": variety,
    "distribution": distribution,
    "both": both,
    "mixing": mixing,
}
