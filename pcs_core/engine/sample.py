"""The sample loop: one scheduler copy, guidance terms, the ``sample`` hook, and no sampler of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, import_tensors, suspended, tokenise
from pcs_core.data import (
    Branch,
    Conditioning,
    Features,
    Fusion,
    GuidanceTerm,
    Masks,
    Recipe,
    SampleSettings,
    SampleStep,
    concatenate,
)
from pcs_core.engine.opening import check_prompts, resolve_backbone, resolve_person
from pcs_core.engine.randomness import generator
from pcs_core.engine.run import EngineRun
from pcs_core.merge import merge_fusions

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Backbone
    from pcs_core.data import Evaluation, Level, Personalization

BATCH = 16
"""Pictures drawn at a time."""


@dataclass(frozen=True, slots=True)
class SampleProgress:
    """What ``watch`` sees: pictures' steps done of all."""

    done: int
    total: int


def sample(
    person: Personalization | Path | str | None,
    backbone: Backbone | str | Path | None = None,
    prompts: Sequence[str] | str = (),
    *,
    count: int = 1,
    seed: int = 0,
    steps: int | None = None,
    scale: float | None = None,
    scheduler: str | None = None,
    negative: str | None = None,
    watch: Sequence[Callable[[SampleProgress], None]] = (),
) -> Tensor:
    """Draw ``count`` pictures per prompt; return [len(prompts) * count, 3, h, w] in [0, 1].

    ``person`` is a personalization, its folder, or None for the untuned backbone. ``backbone`` None
    opens the one the personalization was made on. Picture i starts from noise seeded ``seed + i``,
    whatever else is drawn with it.

    Raises
    ------
    InputError
        A prompt without the personalization's token, or no prompt.
    ArtifactError
        The backbone is not the one the personalization was made on.
    """
    person = resolve_person(person)
    opened = resolve_backbone(backbone, person)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    check_prompts(prompts, person)
    texts = [prompt for prompt in prompts for _ in range(count)]
    chosen = (Recipe(id="base") if person is None else person.recipe).sample
    settings = SampleSettings(
        steps=chosen.steps if steps is None else steps,
        scale=chosen.scale if scale is None else scale,
        scheduler=scheduler or chosen.scheduler,
        negative=chosen.negative if negative is None else negative,
    )
    pictures = []
    with ExitStack() as stack:
        stack.enter_context(suspended(opened))
        run, fusion = restore(person, opened, seed)
        net = stack.enter_context(Attachment(opened, fusion))
        for start in range(0, len(texts), BATCH):
            chunk = texts[start : start + BATCH]
            seeds = [seed + i for i in range(start, start + len(chunk))]
            pictures.append(
                _draw(run, net, chunk, seeds, settings, watch, start * settings.steps, len(texts))
            )
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
    pictures = []
    with Attachment(backbone, Fusion()) as net:
        for start in range(0, len(prompts), BATCH):
            chunk = list(prompts[start : start + BATCH])
            seeds = [seed + i for i in range(start, start + len(chunk))]
            pictures.append(_draw(run, net, chunk, seeds, settings, (), 0, len(prompts)))
    return torch.cat(pictures)


def restore(
    person: Personalization | None, backbone: Backbone, seed: int
) -> tuple[EngineRun, Fusion]:
    """Build the run and the trained fusion of a personalization (none: the bare backbone)."""
    if person is None:
        return EngineRun(Recipe(id="base"), backbone, seed=seed), Fusion()
    run = EngineRun(
        person.recipe,
        backbone,
        seed=seed,
        names=(person.subject or "subject",),
        concepts=(person.concepts,),
    )
    run.features = Features(
        tensors={k: v.unsqueeze(0).to(backbone.device) for k, v in person.features.items()},
        concepts=(person.concepts,),
    )
    fusion = merge_fusions(run.call("fuse", features=run.features))
    import_tensors(fusion, dict(person.tensors))
    return run, fusion


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
) -> Tensor:
    backbone = net.backbone
    rngs = [generator(s, "noise") for s in seeds]
    noise = torch.stack([torch.randn(backbone.latent_shape, generator=g) for g in rngs])
    sampler = backbone.sampler(settings.scheduler, settings.steps)
    latents = sampler.start(noise.to(backbone.device))
    guide = Guidance(net, texts, settings)
    scratch: dict[str, Any] = {}
    times = list(sampler.times)
    for index, time in enumerate(times):
        shown = sampler.show(latents, time)
        level = sampler.level(index, len(texts))
        following = sampler.level(index + 1, len(texts)) if index + 1 < len(times) else None
        step = guide.step(index, len(times), shown, level, following, rngs[0], scratch)
        prediction = run.manager.hook.sample(run=run, step=step)
        if step.latents is not shown:
            latents = sampler.hide(step.latents, index)
        native = backbone.process.native(prediction.x0, step.latents, level)
        latents = sampler.advance(latents, native.to(latents.dtype), time, rngs)
        for function in watch:
            function(SampleProgress(done + (index + 1) * len(texts), total * len(times)))
    return net.pixels(backbone.decode(latents), "decoded")


class Guidance:
    """Branches of the guidance terms, each evaluated at most once per step, in one batch."""

    def __init__(self, net: Attachment, texts: Sequence[str], settings: SampleSettings) -> None:
        self.net, self.texts, self.settings = net, list(texts), settings
        self.terms: tuple[GuidanceTerm, ...] = net.fusion.guidance
        if settings.scale != 1.0:
            classifier_free = GuidanceTerm(
                Branch("positive"), Branch("negative"), settings.scale - 1.0
            )
            self.terms = (classifier_free, *self.terms)
        self._encoded: dict[tuple[str, str, str], Conditioning] = {}

    def branch(self, branch: Branch) -> Conditioning:
        """Return the conditioning of a branch, encoded once per sampling run."""
        key = (branch.prompt, branch.model, branch.edits)
        if key not in self._encoded:
            prompts = {
                "positive": self.texts,
                "negative": [self.settings.negative] * len(self.texts),
            }.get(branch.prompt, [branch.prompt] * len(self.texts))
            fusion = self.net.fusion
            subject = torch.zeros(len(prompts), dtype=torch.long, device=self.net.backbone.device)
            tokens = tokenise(
                prompts, self.net.backbone.tokenizer, words=fusion.words, tokens=fusion.tokens
            )
            text, pooled = self.net.encode_text(
                tokens, subject, model=branch.model, edits=branch.edits
            )
            self._encoded[key] = Conditioning(text=text, pooled=pooled, subject=subject)
        return self._encoded[key]

    def coefficients(self, progress: float) -> dict[Branch, float]:
        """Return the factor of each branch at ``progress``; those that cancel are left out."""
        factors: dict[Branch, float] = {Branch("positive"): 1.0}
        for term in self.terms:
            if term.start <= progress < term.stop:
                factors[term.plus] = factors.get(term.plus, 0.0) + term.weight
                factors[term.minus] = factors.get(term.minus, 0.0) - term.weight
        return {branch: factor for branch, factor in factors.items() if factor != 0.0}

    def step(
        self,
        index: int,
        count: int,
        latents: Tensor,
        level: Level,
        following: Level | None,
        rng: Any,
        scratch: dict[str, Any],
    ) -> SampleStep:
        """Return the step shown to the ``sample`` hook."""
        progress = index / count
        factors = self.coefficients(progress)

        def evaluate(x: Tensor, at: Level, cond: Conditioning, **options: Any) -> Evaluation:
            return self.net.evaluate(x, at, cond, progress=progress, **options)

        def predict(x: Tensor) -> Tensor:
            return self._predict(x, level, factors, evaluate)

        return SampleStep(
            index=index,
            count=count,
            latents=latents,
            level=level,
            next_level=following,
            terms=self.terms,
            masks=Masks(),
            branch=self.branch,
            predict=predict,
            evaluate=evaluate,
            rng=rng,
            scratch=scratch,
        )

    def _predict(
        self,
        latents: Tensor,
        level: Level,
        factors: dict[Branch, float],
        evaluate: Callable[..., Evaluation],
    ) -> Tensor:
        groups: dict[tuple[str, str], list[Branch]] = {}
        for branch in sorted(factors, key=lambda b: b.prompt):  # negative before positive
            groups.setdefault((branch.edits, branch.model), []).append(branch)
        total: Tensor | None = None
        for (edits, model), branches in groups.items():
            n = len(branches)
            cond = concatenate(tuple(self.branch(b) for b in branches))
            repeated = type(level)(*(t.repeat(n) for t in level))
            x0 = evaluate(latents.repeat(n, 1, 1, 1), repeated, cond, model=model, edits=edits).x0
            for branch, part in zip(branches, x0.chunk(n), strict=True):
                term = factors[branch] * part
                total = term if total is None else total + term
        assert total is not None
        return total
