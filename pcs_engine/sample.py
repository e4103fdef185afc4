"""The sample loop: one scheduler copy, guidance terms, the ``sample`` hook, and no sampler of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.arguments import checks_arguments
from pcs_core.backbone import Attachment, suspended
from pcs_core.data import Fusion, Preset, Recipe, SampleSettings
from pcs_core.errors import InputError
from pcs_engine.drawn_size import check_hosts, drawn_at
from pcs_engine.given import check_drawing
from pcs_engine.guidance import Guidance
from pcs_engine.opening import (
    check_layout,
    check_prompts,
    open_deployment,
    open_engine,
    resolve_artifact,
    resolve_backbone,
    runs_deployments,
)
from pcs_engine.randomness import generator
from pcs_engine.restoring import restored
from pcs_engine.run import EngineRun
from pcs_engine.strengths import part_strengths, read_numbers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Layout, Personalization

BATCH = 16
"""Pictures drawn at a time."""


@dataclass(frozen=True, slots=True)
class SampleProgress:
    """What ``watch`` sees: pictures' steps done of all, and the latents [n c h w] of these pictures."""

    done: int
    total: int
    latents: Tensor | None = None


# long: the options of a drawing and what they mean
@checks_arguments
def sample(
    artifact: Personalization | Path | str | Sequence[Personalization | Path | str] | None,
    backbone: Backbone | str | Path | None = None,
    prompts: Sequence[str] | str = (),
    *,
    count: int = 1,
    seed: int = 0,
    steps: int | None = None,
    scale: float | None = None,
    scheduler: str | None = None,
    negative: str | None = None,
    size: tuple[int, int] | None = None,
    preset: Preset | Path | str | None = None,
    layout: Layout | None = None,
    strengths: Mapping[str, float] | None = None,
    engine: str | None = None,
    deployment: Path | str | None = None,
    options: Mapping[str, Any] | None = None,
    watch: Sequence[Callable[[SampleProgress], None]] = (),
    finished: Sequence[Callable[[Tensor], None]] = (),
) -> Tensor:
    """Draw ``count`` pictures per prompt; return [len(prompts) * count, 3, h, w] in [0, 1].

    A backbone of clips returns [len(prompts) * count, 3, t, h, w].

    ``artifact`` is a personalization, its folder, several of them that act together (see
    :func:`pcs_merging.stacking.stack_personalizations`), or None for the untuned backbone. ``backbone`` None
    opens the one the personalization was made on. ``preset`` puts techniques and numbers over its recipe;
    what is given beside it counts. ``size`` is height and width in pixels, where they are not the backbone's
    own. ``layout`` says where things should stand; ``strengths`` weigh uses by name ("lora", in full
    "weights.lora", of a further artifact "style:lora", or "style" for all of its; 1 is as fitted, 0 as if it
    were not there) and change the fusion's named numbers. ``deployment`` is a folder that ``pcs export``
    wrote for ``engine``, drawn with in place of the backbone; an ``engine`` that needs none, as ``compile``,
    runs the backbone itself. ``options`` are the engine's. Picture i starts from noise seeded ``seed + i``,
    whatever else is drawn with it. ``finished`` are shown pictures [n 3 h w] as soon as they are drawn, in
    order: those that are returned at the end, a few at a time.

    Raises
    ------
    InputError
        A prompt without the personalization's token, no prompt, a phrase of the layout that no
        prompt holds, an unknown strength, or a number that nothing can be drawn with.
    CapabilityError
        The backbone or the artifact cannot draw with this scheduler or of this size.
    ArtifactError
        The backbone is not the one the personalization was made on.
    """
    artifact = resolve_artifact(artifact)
    if options and engine is None:
        raise InputError("options are for an engine: name it with `engine`")
    if deployment is not None or (engine is not None and runs_deployments(engine)):
        backbone, engine = open_deployment(deployment, engine, **(options or {})), None
    opened = resolve_backbone(backbone, artifact)
    if engine is not None:
        opened = open_engine(opened, engine, **(options or {}))
    if isinstance(prompts, str) or not isinstance(prompts, Iterable):
        prompts = [prompts]
    prompts = list(prompts)
    check_prompts(prompts, artifact)
    added = resolve_preset(preset, opened)
    check_layout(layout, prompts, artifact, added.uses)
    recipe = Recipe(id="base") if artifact is None else artifact.recipe
    chosen = added.over(recipe.sample)
    settings = SampleSettings(
        steps=chosen.steps if steps is None else steps,
        scale=chosen.scale if scale is None else scale,
        scheduler=chosen.scheduler if scheduler is None else scheduler,
        negative=chosen.negative if negative is None else negative,
    )
    check_drawing(count, seed, settings, {} if strengths is None else strengths)
    opened.sampler(settings.scheduler, settings.steps)  # one that does not fit is refused here
    texts = [prompt for prompt in prompts for _ in range(count)]
    pictures = []
    with ExitStack() as stack:
        stack.enter_context(suspended(opened))
        stack.enter_context(drawn_at(opened, size))
        weights, numbers = part_strengths(strengths or {}, (*recipe.uses, *added.uses))
        run, fusion = stack.enter_context(restored(artifact, opened, seed, added.uses, weights))
        run.layout, run.strengths = layout, read_numbers(numbers, fusion)
        check_hosts(fusion, size)
        net = stack.enter_context(Attachment(opened, fusion))
        batch = batch_size(opened)
        for start in range(0, len(texts), batch):
            chunk = texts[start : start + batch]
            seeds = [seed + i for i in range(start, start + len(chunk))]
            pictures.append(_draw(run, net, chunk, seeds, settings, watch, start, len(texts)))
            for function in finished:
                function(pictures[-1])
    return torch.cat(pictures)


def draw_base(
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    seed: int,
    scale: float,
    steps: int,
    scheduler: str = "ddim",
) -> Tensor:
    """Return pictures [n 3 h w] of the untuned backbone, one per prompt."""
    run = EngineRun(Recipe(id="base"), backbone, seed=seed)
    settings = SampleSettings(steps=steps, scale=scale, scheduler=scheduler)
    with Attachment(backbone, Fusion()) as net:
        return draw_attached(run, net, prompts, settings, seed)


def draw_attached(
    run: EngineRun, net: Attachment, prompts: Sequence[str], settings: SampleSettings, seed: int
) -> Tensor:
    """Return pictures [n 3 h w], one per prompt, with what is attached."""
    seeds = [seed + i for i in range(len(prompts))]
    return torch.cat(list(draw_rows(run, net, prompts, seeds, settings)))


def draw_rows(
    run: EngineRun,
    net: Attachment,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SampleSettings,
    subjects: Sequence[int] = (),
    watch: Sequence[Callable[[SampleProgress], None]] = (),
) -> Iterator[Tensor]:
    """Yield pictures [n 3 h w] with what is attached, a batch at a time: one per prompt, from its own seed.

    ``subjects`` says of each whose it is, where what is attached holds several.
    """
    batch = batch_size(net.backbone)
    for start in range(0, len(prompts), batch):
        here = slice(start, start + batch)
        chunk, mine, owners = prompts[here], seeds[here], subjects[here]
        yield _draw(run, net, chunk, mine, settings, watch, start, len(prompts), owners)


def batch_size(backbone: Backbone) -> int:
    """Return how many pictures, or clips of as many frames, are drawn at a time."""
    frames = backbone.latent_shape[1] if len(backbone.latent_shape) == 4 else 1
    return max(1, BATCH // frames)


def resolve_preset(preset: Preset | Path | str | None, backbone: Backbone) -> Preset:
    """Load a preset by id or file, as it is on ``backbone``; none is one that changes nothing."""
    if preset is None:
        return Preset("none")
    if isinstance(preset, Preset):
        return preset
    from pcs_core.assembly.presets import load_preset

    return load_preset(preset, backbone=backbone.card.id)


@torch.no_grad()  # never inference_mode: wrappers may need gradients
def _draw(
    run: EngineRun,
    net: Attachment,
    texts: Sequence[str],
    seeds: Sequence[int],
    settings: SampleSettings,
    watch: Sequence[Callable[[SampleProgress], None]],
    done: int,
    total: int,
    subjects: Sequence[int] = (),
) -> Tensor:
    backbone, rows = net.backbone, net.fusion.rows
    rngs = [generator(s, "noise") for s in seeds]
    noise = [torch.randn(backbone.latent_shape, generator=g) for g in rngs]
    for row in rows:
        rngs.append(generator(run.seed, "row", row.role))
        fresh = torch.randn(backbone.latent_shape, generator=rngs[-1])
        noise.append(noise[0] if row.latents == "target" else fresh)
    prompts = [*texts, *(r.prompt.replace("{prompt}", texts[0]) for r in rows)]
    sampler = backbone.sampler(settings.scheduler, settings.steps)
    latents = sampler.start(torch.stack(noise).to(backbone.device))
    roles = [r.role for r in rows]
    guide = Guidance(run, net, prompts, settings, roles=roles, subjects=subjects, seeds=seeds)
    scratch: dict[str, Any] = {}
    times = list(sampler.times)
    for index, time in enumerate(times):
        before = shown = sampler.show(latents, time)
        for i, row in enumerate(rows):
            if row.latents == "trajectory":  # an inverted reference goes its own way
                stored = run.features.tensors[row.key][0]
                at = round((1 - index / len(times)) * (len(stored) - 1))
                shown = shown.index_copy(
                    0,
                    torch.tensor([len(texts) + i], device=shown.device),
                    stored[at][None].to(shown),
                )
        level = sampler.level(index, len(prompts))
        following = sampler.level(index + 1, len(prompts)) if index + 1 < len(times) else None
        step = guide.step(index, len(times), shown, level, following, rngs[0], scratch)
        prediction = run.predict(step)
        if step.latents is not before:
            latents = sampler.hide(step.latents, index)
        native = backbone.process.native(prediction.x0, step.latents, level)
        latents = sampler.advance(latents, native.to(latents.dtype), time, rngs)
        for function in watch:
            steps_done = done * len(times) + (index + 1) * len(texts)
            function(SampleProgress(steps_done, total * len(times), latents[: len(texts)]))
    kept = [*range(len(texts)), *(len(texts) + i for i, r in enumerate(rows) if r.returned)]
    decode = net.fusion.decoder or backbone.decode
    return net.pixels(decode(latents[kept]), "decoded")
