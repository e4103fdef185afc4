"""Drawing with and without a preset from the same noise, and measuring both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pcs_acceleration.flops import flops_of
from pcs_acceleration.gate import Verdict, check_bounds, judge, psnr
from pcs_core import fit_image, installed, load_subject, sample
from pcs_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization, Preset

PLACES = (
    "on the beach",
    "in the snow",
    "on grass",
    "at night",
    "on a red background",
    "on a blue background",
    "in a forest",
    "in a city",
    "on a table",
    "in the desert",
    "in a room",
    "in the mountains",
)
"""Where subjects stand in the prompts, where the backbone's world names no places of its own."""
SEED = 700_000
"""Noise that no report and no watcher draws from."""


@dataclass(frozen=True, slots=True)
class Member:
    """One artifact under test and the pictures [m 3 h w] it was made from."""

    artifact: Personalization
    references: Tensor
    name: str = ""


def check_preset(
    preset: Preset,
    members: Sequence[Member],
    backbone: Backbone,
    *,
    identity: Any,
    alignment: Any = None,
    prompts: Sequence[str] = PLACES,
    seeds: int = 1,
    watch: Any = None,
) -> Verdict:
    """Return the gate's verdict on ``preset`` for artifacts of one system.

    ``identity`` and ``alignment`` are metrics (``score(pictures, prompts=, references=)`` [n], higher is
    better); ``prompts`` are what stands behind "a picture of <token>". ``watch`` is called after each member.

    Raises
    ------
    InputError
        The preset has no bounds, or there are too few pairs.
    """
    check_bounds(preset.bounds, preset.id)
    losses: dict[str, list[float]] = {"identity": [], "psnr": []}
    if alignment is not None:
        losses["alignment"] = []
    for member in members:
        token, noun = (getattr(member.artifact.concepts[0], k) for k in ("token", "noun"))
        texts = [f"a picture of {token} {place}" for place in prompts]
        given: dict[str, Any] = {
            "backbone": backbone,
            "prompts": texts,
            "count": seeds,
            "seed": SEED,
        }
        plain = sample(member.artifact, **given)
        fast = sample(member.artifact, preset=preset, **given)
        said = [f"a picture of a {noun} {p}" for p in prompts for _ in range(seeds)]
        measured = {"psnr": psnr(fast, plain)}
        for name, metric in (("identity", identity), ("alignment", alignment)):
            if metric is not None:
                both = [
                    metric.score(p, prompts=said, references=member.references)
                    for p in (fast, plain)
                ]
                measured[name] = both[0].float() - both[1].float()
        for name, values in losses.items():
            values += measured[name].float().view(len(prompts), seeds).mean(1).tolist()
        if watch is not None:
            watch(member)
    facts = {
        "artifacts": [m.name or m.artifact.subject for m in members],
        "prompts": list(prompts),
        "seeds": seeds,
        "metrics": {
            n: getattr(m, "id", type(m).__name__)
            for n, m in (("identity", identity), ("alignment", alignment))
            if m is not None
        },
    }
    return judge(preset.bounds, losses, cost(preset, members[0], backbone), facts=facts)


def cost(preset: Preset, member: Member, backbone: Backbone) -> float:
    """Return the FLOPs of one picture with ``preset`` over those of the plain one, decoder included."""
    counted = []
    for chosen in (preset, None):
        prompt = f"a picture of {member.artifact.concepts[0].token}"
        counted.append(flops(member.artifact, backbone, prompt, chosen))
    return counted[0] / counted[1]


def flops(
    artifact: Personalization, backbone: Backbone, prompt: str, preset: Preset | None = None
) -> int:
    """Return the FLOPs of drawing one picture: matrix products and convolutions, twice their products."""
    return flops_of(lambda: sample(artifact, backbone, prompt, seed=SEED, preset=preset))


def references(artifact: Personalization, backbone: Backbone, folder: Path | None = None) -> Tensor:
    """Return the pictures [m 3 h w] of a subject: those in ``folder``, or a shipped subject's of its name.

    Raises
    ------
    InputError
        There is no folder of them.
    """
    if folder is None:
        catalogue, dataset = installed(), f"{backbone.card.id}.subjects"
        known: Mapping[str, Path] = (
            catalogue.get("datasets", dataset)() if dataset in catalogue.ids("datasets") else {}
        )
        if artifact.subject not in known:
            raise InputError(
                f"the pictures of {artifact.subject!r} are wanted to compare with: name its folder with "
                "--subject, in the order of the artifacts"
            )
        folder = known[artifact.subject]
    concept = artifact.concepts[0]
    subject = load_subject(folder, noun=concept.noun, token=concept.token)
    return torch.stack([fit_image(image, backbone.card.size) for image in subject.images])


def metric(id: str) -> Any:
    """Open an installed metric of pictures.

    Raises
    ------
    UnknownNameError
        No such metric; names the nearest.
    """
    return installed().get("metrics", id)()


def places(backbone: Backbone) -> tuple[str, ...]:
    """Return the places of prompts: those of the backbone's own world if it has one, else :data:`PLACES`."""
    catalogue, dataset = installed(), f"{backbone.card.id}.places"
    return (
        tuple(catalogue.get("datasets", dataset)().values())
        if dataset in catalogue.ids("datasets")
        else PLACES
    )
