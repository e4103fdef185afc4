"""``pcs sample --dry-run``: what would be drawn, with what, and which files would be written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pcs_cli.output import emit, emit_json

if TYPE_CHECKING:
    from pcs_cli.output_folder import Destination
    from pcs_cli.sample_plan import Engine, SamplePlan
    from pcs_core.backbone import Backbone


def print_drawing(
    plan: SamplePlan, engine: Engine, backbone: Backbone, target: Destination, *, json: bool
) -> None:
    """Print the plan to stdout, as text or JSON, once all that a drawing refuses has been refused.

    Raises
    ------
    PcsError
        As the drawing would: the prompt, the numbers, the sampler or the size cannot be.
    """
    check_plan(plan, backbone)
    facts = planned(plan, engine, backbone, target)
    if json:
        emit_json(facts)
        return
    for line in lines(facts, plan.seed):
        emit(line)


def check_plan(plan: SamplePlan, backbone: Backbone) -> None:
    """Refuse what the drawing would refuse before its first step.

    Raises
    ------
    PcsError
        Says what is wrong.
    """
    from pcs_engine.drawn_size import drawn_at
    from pcs_engine.given import check_drawing
    from pcs_engine.opening import check_prompts, resolve_backbone

    if plan.personalization is not None:
        resolve_backbone(backbone, plan.personalization)
    check_prompts([plan.prompt], plan.personalization)
    check_drawing(plan.count, plan.seed, plan.settings, plan.strengths)
    with drawn_at(backbone, plan.size):
        backbone.sampler(plan.settings.scheduler, plan.settings.steps)


def planned(
    plan: SamplePlan, engine: Engine, backbone: Backbone, target: Destination
) -> dict[str, Any]:
    """Return what ``sample.json`` would say, without the pictures, and the files with where they go."""
    from pcs_cli.sample_facts import describe, picture_name
    from pcs_core import clip_files

    clips = len(backbone.latent_shape) == 4
    size = plan.size or (backbone.card.size[0], backbone.card.size[1])
    facts = describe(replace(plan, size=size), engine, backbone, None)
    pictures = [picture_name(index) for index in range(plan.count)]
    if clips:
        pictures += [f"{index:03d}{clip_files.suffix()}" for index in range(plan.count)]
    facts |= {"out": str(target.folder), "files": [*pictures, "sheet.png", "sample.json"]}
    return facts


def lines(facts: dict[str, Any], seed: int) -> list[str]:
    """Return the plan as lines of text."""
    (height, width), numbers, count = facts["size"], facts["settings"], facts["count"]
    card = facts["backbone"]
    last = f" to {seed + count - 1}" if count > 1 else ""
    said = [
        f"{count} of {width} x {height} pixels on {card['id']} (sha256 {card['hash'][:12]}), seed {seed}{last}",
        f"prompt: {facts['prompt']}",
    ]
    if numbers["negative"]:
        said.append(f"negative: {numbers['negative']}")
    for one in (facts["artifact"], *facts.get("added", ())):
        if one is not None:
            tokens = ", ".join(one["tokens"]) or "no token"
            said.append(f"artifact {one['path']}: {one['recipe']}, called {tokens}")
    said.append(f"{numbers['scheduler']}, {numbers['steps']} steps, scale {numbers['scale']:g}")
    if strengths := facts.get("strengths"):
        said.append("strengths: " + ", ".join(f"{k}={v:g}" for k, v in strengths.items()))
    if preset := facts.get("preset"):
        uses = ", ".join(use["technique"] for use in preset.get("uses", ()))
        said.append(f"preset {preset.get('id')}" + (f": {uses}" if uses else ""))
    if boxes := facts.get("layout", {}).get("boxes"):
        said.append("boxes of " + ", ".join(repr(box["phrase"]) for box in boxes))
    first, *others = facts["files"]
    shown = [first, *(["..."] if len(others) > 3 else []), *others[-3:]]
    said.append(f"nothing was drawn; without --dry-run {facts['out']}/ gets {' '.join(shown)}")
    return said
