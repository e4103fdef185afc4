"""``pcs sample``: draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pcs_cli.options import Device, Json, Offload, Out, Overwrite, Quantize, Seed
from pcs_cli.output import emit, emit_json, notice
from pcs_cli.sample_options import (
    Added,
    Aspect,
    BackboneName,
    Base,
    Beside,
    Changes,
    Count,
    Deployment,
    DryRun,
    EngineName,
    EngineOptions,
    LayoutFile,
    Negative,
    PresetName,
    Provenance,
    Scale,
    Scheduler,
    Size,
    Steps,
    Strengths,
    Weights,
    Words,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_cli.output_folder import Destination
    from pcs_cli.sample_plan import Engine, SamplePlan
    from pcs_core.backbone import Backbone
    from pcs_core.data import Personalization


# long: the options of a command
def sample(
    context: typer.Context,
    words: Words,
    out: Out,
    count: Count = 4,
    seed: Seed = 0,
    base: Base = None,
    add: Beside = None,
    steps: Steps = None,
    scale: Scale = None,
    scheduler: Scheduler = None,
    negative: Negative = None,
    size: Size = None,
    aspect: Aspect = None,
    preset: PresetName = None,
    added: Added = None,
    settings_of: Changes = None,
    weights: Weights = None,
    layout: LayoutFile = None,
    strength: Strengths = None,
    backbone: BackboneName = None,
    engine: EngineName = None,
    deployment: Deployment = None,
    option: EngineOptions = None,
    device: Device = "auto",
    quantize: Quantize = "",
    offload: Offload = "",
    overwrite: Overwrite = False,
    provenance: Provenance = True,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Draw PROMPT with the artifact in DIR, and those of --add beside it.

    Writes 000.png ..., sheet.png and sample.json, nothing else. A video backbone writes 000.mp4 ...
    (000.gif where no encoder is installed), and 000.png holds the frames of 000 side by side.

    What is not given (steps, scale, scheduler, negative) comes from the artifact's recipe. Pictures are
    written to DIR.partial as they are made, which becomes DIR at the end; an interruption keeps them.
    """
    from pcs_cli import sample_plan as read
    from pcs_cli.command_line import command_line
    from pcs_cli.drawn_pictures import drawing_into, origin_texts
    from pcs_cli.opening import open_together
    from pcs_cli.output_folder import destination
    from pcs_cli.progress import reporting
    from pcs_cli.sample_facts import describe
    from pcs_cli.sizes import chosen_size, read_size
    from pcs_cli.weighed_prompts import check_weights, read_weights

    runs = read.read_engine(engine, deployment, option or (), base=base, backbone=backbone)
    spared = read.read_spared(runs, quantize, offload)
    artifact, prompt = read.split_words(words, base, backbone)
    asked, ratio = read_size(size, aspect)
    folders = read.read_folders(artifact, add or ())
    target = destination(out, overwrite=overwrite, inputs=folders)
    personalization = open_together(folders)
    for line in read.stack_notes(personalization, folders, prompt):
        notice(line)
    more, changes = read_weights(weights)
    chosen = read.read_preset(
        preset, [*(added or ()), *more], [*(settings_of or ()), *changes], personalization, base
    )
    boxes = read.read_layout(layout, prompt, personalization, chosen)
    strengths = read.read_strengths(strength or (), personalization, chosen, folders)
    numbers = read.read_numbers(
        chosen,
        personalization,
        steps=steps,
        scale=scale,
        scheduler=scheduler,
        negative=negative,
        base=base,
    )
    check_weights([prompt, numbers.negative], personalization, chosen.uses)
    plan = read.SamplePlan(
        folders, personalization, prompt, count, seed, numbers, chosen, boxes, strengths
    )

    if dry_run:
        show_plan(plan, runs, target, base, backbone, device, spared, asked, ratio, json)
        return

    def go_on(done: int) -> str:
        left = ("--seed", str(seed + done), "--count", str(count - done))
        return command_line(context, *left)

    try:
        with drawing_into(target, go_on) as drawn:
            with reporting("opening") as reporter:
                opened = open_networks(runs, personalization, base, backbone, device, spared)
                plan = replace(plan, size=chosen_size(opened, asked, ratio))
                drawn.texts = origin_texts(personalization, opened.card) if provenance else {}
                pictures = draw(plan, opened, (reporter.drawing,), (drawn.add,))
            facts = describe(plan, runs, opened, pictures)
            drawn.finish(facts)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    tell(target.folder, facts, json)


def show_plan(
    plan: SamplePlan,
    engine: Engine,
    target: Destination,
    base: str | None,
    backbone: str | None,
    device: str,
    spared: Mapping[str, str],
    asked: tuple[int, int] | None,
    ratio: float | None,
    as_json: bool,
) -> None:
    """Open what would draw, and print the plan."""
    from pcs_cli.progress import reporting
    from pcs_cli.sample_dry_run import print_drawing
    from pcs_cli.sizes import chosen_size

    with reporting("opening"):
        opened = open_networks(engine, plan.personalization, base, backbone, device, spared)
    plan = replace(plan, size=chosen_size(opened, asked, ratio))
    print_drawing(plan, engine, opened, target, json=as_json)


def open_networks(
    engine: Engine,
    personalization: Personalization | None,
    base: str | None,
    backbone: str | None,
    device: str,
    spared: Mapping[str, str],
) -> Backbone:
    """Open what draws: a deployment, or the backbone, run by the engine where one is named."""
    from pcs_engine import open_engine

    if engine.deployed:
        return open_deployed(engine, device)
    opened = open_for_sampling(personalization, base, backbone, device, **spared)
    return opened if engine.name is None else open_engine(opened, engine.name, **engine.options)


def open_for_sampling(
    personalization: Personalization | None,
    base: str | None,
    backbone: str | None,
    device: str,
    **options: Any,
) -> Backbone:
    """Open the backbone to draw with."""
    from pcs_cli.opening import backbone_name, device_name, open_for
    from pcs_engine import open_backbone

    if personalization is not None:
        return open_for(personalization, backbone, device, **options)
    return open_backbone(backbone_name(base or "mini"), device=device_name(device), **options)


def open_deployed(engine: Engine, device: str) -> Backbone:
    """Open a deployment to draw with."""
    from pcs_cli.opening import device_name
    from pcs_engine.opening import open_deployment

    folder = None if engine.deployment is None else engine.deployment.expanduser()
    return open_deployment(folder, engine.name, device=device_name(device), **engine.options)


def draw(
    plan: SamplePlan,
    backbone: Backbone,
    watch: Sequence[Callable[[Any], None]],
    finished: Sequence[Callable[[Tensor], None]] = (),
) -> Tensor:
    """Return the pictures [n 3 h w], or clips [n 3 t h w], in [0, 1]; tell ``finished`` of them before."""
    from pcs_engine import sample as draw_pictures

    return draw_pictures(
        plan.personalization,
        backbone,
        plan.prompt,
        count=plan.count,
        seed=plan.seed,
        steps=plan.settings.steps,
        scale=plan.settings.scale,
        scheduler=plan.settings.scheduler,
        negative=plan.settings.negative,
        preset=plan.preset,
        layout=plan.layout,
        strengths=plan.strengths,
        size=plan.size,
        watch=watch,
        finished=finished,
    )


def tell(folder: Path, facts: dict[str, Any], as_json: bool) -> None:
    """Print where the pictures are, what memory they took, and what is to be known of preset and clips."""
    from pcs_cli.peak_memory import peak_memory

    if as_json:
        emit_json({"out": str(folder), **facts})
        return
    for key in ("preset", "clips"):
        if note := facts.get(key, {}).get("note"):
            notice(note)
    notice(f"drawn, peak memory {peak_memory()}")
    emit(str(folder))
