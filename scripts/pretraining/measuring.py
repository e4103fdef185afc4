"""What a system carries over: likeness and places with it, without it, and with another's references."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretraining.card import NONE, OTHER, OWN, UNTUNED, table
from pretraining.subjects import Case, cases, subject_of

STRENGTHS = {
    "ip-adapter": ("image.scale",),
    "fastcomposer": ("image.words",),
    "instantid": ("face.scale", "control.scale"),
}
METRICS = {"instantid": ("mini.identity", "mini.views")}
"""What measures likeness; the first of an entry is the one the card quotes first."""
OTHERWISE = ("mini.views", "mini.clip")
PLACES = ("beach", "grass", "red", "blue")


def measure(system: str, arguments: argparse.Namespace) -> None:
    """Write ``out/SYSTEM.json`` and ``out/SYSTEM.jpg``, and print the table."""
    import torch

    from pcs_core import fit, installed, load, merge_personalizations, open_backbone, sample

    backbone = open_backbone(arguments.backbone)
    folder = arguments.out / system
    recipe = load(folder).recipe
    subjects = cases(system, arguments.subjects, backbone.card.size[0])
    started = time.monotonic()
    for number, case in enumerate(subjects):
        case.artifact = fit(recipe, subject_of(case, number), backbone, adapter=folder)[0]
    seconds = (time.monotonic() - started) / len(subjects)
    studio = installed().get("datasets", "mini.held-out")()
    zero = dict.fromkeys(STRENGTHS[system], 0.0)
    drawn = draw(system, recipe, subjects, studio, zero, backbone)
    names = [r for r in arguments.metrics.split(",") if r] or METRICS.get(system, OTHERWISE)
    figures: dict[str, Any] = {
        "system": system,
        "backbone_sha256": backbone.card.hash,
        "subjects": {case.name: case.group for case in subjects},
        "pictures": len(PLACES),
        "seconds_a_subject": round(seconds, 3),
        "metrics": {},
    }
    for name in names:
        metric = installed().get("feature_models", name)()
        kept = [embed(metric, case.kept) for case in subjects]
        looks = {row: [embed(metric, images) for images in those] for row, those in drawn.items()}
        given = [embed(metric, torch.stack([p.image for p in c.given])) for c in subjects]
        figures["metrics"][name] = likeness(looks, kept, given)
    judge = installed().get("feature_models", "mini.image")()
    figures["place_accuracy"] = {
        row: sum(
            predicted == place
            for images in those
            for predicted, place in zip(judge.top("place", judge.read(images)), PLACES, strict=True)
        )
        / (len(PLACES) * len(those))
        for row, those in drawn.items()
    }
    if system == "fastcomposer":
        metric = installed().get("feature_models", names[0])()
        figures["pairs"] = pairs(subjects, backbone, metric, zero, merge_personalizations, sample)
    (arguments.out / f"{system}.json").write_text(json.dumps(figures, indent=1) + "\n")
    write_sheet(subjects, drawn, arguments.out / f"{system}.jpg")
    print(table(figures))


def draw(
    system: str,
    recipe: Any,
    subjects: Any,
    studio: Any,
    zero: Mapping[str, float],
    backbone: Any,
) -> dict[str, list[Any]]:
    """Return row -> a batch of pictures for each subject, one at each of `PLACES`."""
    from pcs_core import sample

    drawn: dict[str, list[Any]] = {OWN: [], NONE: [], OTHER: []}
    if system == "fastcomposer":  # its low-rank residuals act at strength 0 as well
        drawn[UNTUNED] = []
    for number, case in enumerate(subjects):
        said = [
            " ".join(f"a photo of {case.article} <it{number}> {studio.phrase(p)}".split())
            for p in PLACES
        ]
        plain = [prompt.replace(f"<it{number}>", case.noun) for prompt in said]
        other = subjects[(number + max(1, len(subjects) // 2)) % len(subjects)].artifact
        mistaken = replace(case.artifact, features=other.features)
        drawn[OWN].append(sample(case.artifact, backbone, said, seed=7))
        drawn[NONE].append(sample(case.artifact, backbone, said, seed=7, strengths=zero))
        drawn[OTHER].append(sample(mistaken, backbone, said, seed=7))
        if UNTUNED in drawn:
            settings = recipe.sample
            drawn[UNTUNED].append(
                sample(None, backbone, plain, seed=7, steps=settings.steps, scale=settings.scale)
            )
        print(f"{system}: {number + 1} of {len(subjects)} drawn", file=sys.stderr)
    return drawn


def embed(metric: Any, images: Any) -> Any:
    """Return unit vectors [n d]."""
    import torch.nn.functional as F

    if hasattr(metric, "image_features"):
        return metric.image_features(images).detach()
    return F.normalize(metric.pooled(images), dim=-1)


def likeness(
    looks: Mapping[str, Sequence[Any]], kept: Sequence[Any], given: Sequence[Any]
) -> dict[str, Any]:
    """Return, per row of unit vectors [pictures d] by subject, how like they are to ``kept`` [n d].

    ``similarity`` is the mean cosine, ``each`` that of every subject, ``nearest`` the share of pictures that
    are closer to their own subject than to any other's, ``better_for`` for how many subjects the first row
    beats this one.
    """
    import torch

    centres = torch.stack([vectors.mean(0) for vectors in kept])
    rows = {**looks, "the references themselves": given}
    cosines = {
        row: [
            float((features @ references.T).mean())
            for features, references in zip(those, kept, strict=True)
        ]
        for row, those in rows.items()
    }
    result: dict[str, Any] = {}
    for row, those in rows.items():
        closest = [(features @ centres.T).argmax(1) == i for i, features in enumerate(those)]
        result[row] = {
            "similarity": round(sum(cosines[row]) / len(kept), 4),
            "nearest": round(float(torch.cat(closest).float().mean()), 4),
            "better_for": sum(a > b for a, b in zip(cosines[OWN], cosines[row], strict=True)),
            "each": [round(value, 4) for value in cosines[row]],
        }
    between = [float((kept[i] @ kept[i - 1].T).mean()) for i in range(len(kept))]
    result["one subject and the next"] = {"similarity": round(sum(between) / len(kept), 4)}
    return result


def pairs(
    subjects: Sequence[Case],
    backbone: Any,
    metric: Any,
    zero: Mapping[str, float],
    merge: Any,
    sample: Any,
) -> dict[str, Any]:
    """Return the likeness of two subjects in one picture: each one's best half, mean over pairs."""
    cosines: dict[str, list[float]] = {OWN: [], NONE: []}
    for i in range(0, len(subjects) - 1, 2):
        one, other = subjects[i : i + 2]
        if one.noun == other.noun:
            continue
        both = merge([one.artifact, other.artifact], backbone, method="join")
        prompt = f"{one.article} <it{i}> next to {other.article} <it{i + 1}> on the beach"
        for row, strengths in ((OWN, None), (NONE, zero)):
            images = sample(both, backbone, prompt, count=2, seed=7, strengths=strengths)
            halves = [embed(metric, half) for half in images.chunk(2, dim=3)]
            for case in (one, other):
                references = embed(metric, case.kept)
                best = max(float((half @ references.T).mean()) for half in halves)
                cosines[row].append(best)
    count = max(1, len(cosines[OWN]))
    return {row: round(sum(values) / count, 4) for row, values in cosines.items()} | {
        "pairs": len(cosines[OWN]) // 2
    }


def write_sheet(subjects: Sequence[Case], drawn: Mapping[str, Sequence[Any]], file: Path) -> None:
    """Write a line per subject: two references, then pictures of its own, strength 0, another's references."""
    import numpy
    import torch
    from PIL import Image

    lines = []
    for i, case in enumerate(subjects[:12]):
        gap = torch.ones(3, case.kept.shape[2], 6)
        columns = [p.image for p in case.given[:2]]
        for row, count in ((OWN, 4), (NONE, 2), (OTHER, 2)):
            columns += [gap, *drawn[row][i][:count]]
        lines.append(torch.cat(columns, dim=2))
    pixels = torch.cat(lines, dim=1).permute(1, 2, 0).mul(255).round().byte().numpy()
    Image.fromarray(numpy.ascontiguousarray(pixels)).save(file, quality=82)
