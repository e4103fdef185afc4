"""Guidance terms: the branches of each step, evaluated at most once and combined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import (
    PICTURE,
    Branch,
    Conditioning,
    GuidanceTerm,
    Masks,
    SampleSettings,
    SampleStep,
    StreamEdit,
    TokenEdit,
    concatenate,
    mask_at,
)
from pcs_core.errors import CapabilityError
from pcs_engine.regions import layout_masks, layout_picture, layout_points

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import TokenisedPrompts
    from pcs_core.data import Evaluation, Level
    from pcs_engine.run import EngineRun


class Guidance:
    """Branches of the guidance terms, each evaluated at most once per step, in one batch.

    ``texts`` has a prompt per picture and, behind them, one per row that techniques added
    (``roles``); every branch holds all of them. ``subjects`` says whose each picture is, where there are
    several subjects: an index for each text. ``seeds`` are those of the texts' pictures.
    """

    def __init__(
        self,
        run: EngineRun,
        net: Attachment,
        texts: Sequence[str],
        settings: SampleSettings,
        *,
        roles: Sequence[str] = (),
        subjects: Sequence[int] = (),
        seeds: Sequence[int] = (),
    ) -> None:
        self.seeds = list(seeds)
        self.subjects = list(subjects) or [0] * len(texts)
        self.run, self.net, self.texts, self.settings = run, net, list(texts), settings
        self.roles = tuple(roles)
        self.terms: tuple[GuidanceTerm, ...] = net.fusion.guidance
        if settings.scale != 1.0:
            # what no prompt says, no reference shows
            drop = ("*",) if net.fusion.of(StreamEdit) else ()
            classifier_free = GuidanceTerm(
                Branch("positive"), Branch("negative", drop=drop), settings.scale - 1.0
            )
            self.terms = (classifier_free, *self.terms)
        self._encoded: dict[tuple[object, ...], Conditioning] = {}

    def branch(
        self, branch: Branch, level: Level | None = None, progress: float = 0.0
    ) -> Conditioning:
        """Return the conditioning of a branch at a level, encoded once per sampling run.

        Once per step where a token edit depends on the noise level, and again where another set of
        edits of the text acts.
        """
        key: tuple[object, ...] = (branch, self.net.acting_on_text(branch.edits, progress))
        if any("level" in edit.text_reads() for edit in self.net.fusion.edits):
            key = (*key, progress)
            self._encoded = {k: v for k, v in self._encoded.items() if k[-1] == progress}
        time = None if level is None else self._time(level)
        if key not in self._encoded:
            self._encoded[key] = self._encode(branch, time, progress)
        return self._encoded[key].with_(time=time)

    def _time(self, level: Level) -> Tensor:
        fraction: Tensor = self.net.backbone.process.fraction(level)
        return fraction.to(self.net.backbone.device)[:1].expand(len(self.texts))

    def _encode(self, branch: Branch, time: Tensor | None, progress: float) -> Conditioning:
        net, count = self.net, len(self.texts)
        subject = torch.tensor(self.subjects, device=net.backbone.device)
        features = net.read_features(self.run.features.tensors, subject)
        base = branch.model == "base"
        with net.under(edits=branch.edits, progress=progress, off=base):
            streams = net.streams(features, branch.drop)
        prompts = {
            "positive": self.texts,
            "negative": [self.settings.negative] * count,
        }.get(branch.prompt, [branch.prompt] * count)

        extra = dict(net.strengths(count, self.run.strengths))
        if any(edit.readings > 1 for edit in net.fusion.of(TokenEdit)):
            seeds = [*self.seeds, *[self.run.seed] * (count - len(self.seeds))]
            extra[PICTURE] = torch.tensor(seeds, device=subject.device)

        def encode(texts: Sequence[str]) -> Conditioning:
            return net.encode_text(
                self._tokenise(texts, self.windows),
                subject,
                time=time,
                streams=streams,
                extra=extra,
                model=branch.model,
                edits=branch.edits,
                progress=progress,
            )

        cond = encode(prompts)
        masks = {}
        layout = self.run.layout
        if layout is not None:
            masks = layout_masks(layout, net.backbone.latent_shape[-2:], count, subject.device)
            if layout.points:
                extra["points"] = layout_points(layout, count, subject.device)
            if layout.picture is not None:
                size = net.backbone.card.size
                extra["layout.picture"] = layout_picture(layout, size, count, subject.device)
            for k, box in enumerate(layout.boxes):
                if box.prompt:
                    # a region without a prompt of its own reads the picture's
                    regional = encode(
                        [box.prompt] * count if branch.prompt == "positive" else prompts
                    )
                    region_text = regional.text if regional.layered is None else regional.layered
                    extra[f"region.{k}"] = region_text
        return cond.with_(extra=extra, masks=masks)

    @cached_property
    def windows(self) -> int:
        """Windows of the text encoder that the longest text of the drawing takes: branches share a batch."""
        sides = (side.prompt for term in self.terms for side in (term.plus, term.minus))
        boxes = () if self.run.layout is None else self.run.layout.boxes
        texts = [*self.texts, self.settings.negative, *(box.prompt for box in boxes)]
        texts += [prompt for prompt in sides if prompt not in ("positive", "negative")]
        return self._tokenise(texts, 1).windows

    def _tokenise(self, prompts: Sequence[str], windows: int) -> TokenisedPrompts:
        fusion, layout = self.net.fusion, self.run.layout
        return tokenise(
            prompts,
            self.net.backbone.tokenizer,
            words=fusion.words,
            tokens=fusion.of(TokenEdit),
            subjects=[*self.subjects, *[0] * (len(prompts) - len(self.subjects))],
            concepts=[[c.token for c in concepts] for concepts in self.run.features.concepts],
            phrases=() if layout is None else layout.phrases,
            windows=windows,
            reader=fusion.reader,
        )

    def coefficients(
        self, progress: float, terms: Sequence[GuidanceTerm] | None = None
    ) -> dict[Branch, float]:
        """Return the factor of each branch at ``progress``; those that cancel are left out.

        ``terms`` None means those of the run. Terms with a mask have no one factor: they are not counted.
        """
        factors: dict[Branch, float] = {Branch("positive"): 1.0}
        for term in self.terms if terms is None else terms:
            if term.mask is None and term.start <= progress < term.stop:
                factors[term.plus] = factors.get(term.plus, 0.0) + term.weight
                factors[term.minus] = factors.get(term.minus, 0.0) - term.weight
        return {branch: factor for branch, factor in factors.items() if factor != 0.0}

    # long: its functions share one memory of answers, and the step that they are given to
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

        def evaluate(x: Tensor, at: Level, cond: Conditioning, **options: Any) -> Evaluation:
            return self.net.evaluate(x, at, self.indexed(cond), progress=progress, **options)

        def branch(which: Branch) -> Conditioning:
            return self.branch(which, level, progress)

        known: dict[Branch, Tensor] = {}
        about: list[Tensor] = []

        def read(x: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
            if not about or about[0] is not x:  # a wrapper has moved the latents
                about[:] = [x]
                known.clear()
            missing = [b for b in branches if b not in known]
            known.update(self._evaluate(x, level, missing, branch, evaluate))
            return known

        def predict(x: Tensor) -> Tensor:
            factors = self.coefficients(progress, shown.terms)
            masked = [t for t in shown.terms if t.mask and t.start <= progress < t.stop]
            order = in_order({*factors, *(side for t in masked for side in (t.plus, t.minus))})
            if x is shown.latents and not x.requires_grad:
                answers = read(x, order)
            else:
                answers = self._evaluate(x, level, order, branch, evaluate)
            x0 = combined(factors, order, answers)
            for term in masked:
                mask = self.mask(str(term.mask), branch(Branch("positive")), x0)
                x0 = x0 + term.weight * mask * (answers[term.plus] - answers[term.minus])
            return x0

        shown = SampleStep(
            index=index,
            count=count,
            latents=latents,
            level=level,
            next_level=following,
            terms=self.terms,
            masks=Masks(),
            branch=branch,
            predict=predict,
            evaluate=evaluate,
            rng=rng,
            scratch=scratch,
            acting=self.net.acting(progress),
            ask=lambda which: read(shown.latents, [which])[which],
        )
        return shown

    def mask(self, name: str, cond: Conditioning, x: Tensor) -> Tensor:
        """Return the mask of guidance called ``name``, [b|1 1 h w] at the size of the latents ``x``.

        It is one of the layout's ("box.<k>", a row for each of ``cond``), or else a feature [1 1 h w] of the
        subject, resized. On clips it is the same in all frames.

        Raises
        ------
        CapabilityError
            There is none of this name.
        """
        if name in cond.masks:
            mask = cond.masks[name]
        elif name in self.run.features.tensors:
            mask = self.run.features.tensors[name].to(x.device, torch.float32)
        else:
            known = ", ".join([*cond.masks, *self.run.features.tensors]) or "none"
            raise CapabilityError(
                f"a term of guidance weighs by the mask {name!r}, and there is none: give a layout with "
                f"boxes ('box.0' is the first), or a feature [1 h w] of that name (there are: {known})"
            )
        mask = mask_at(mask, (int(x.shape[-2]), int(x.shape[-1])))
        return mask if x.dim() == 4 else mask.unsqueeze(2)

    def indexed(self, cond: Conditioning) -> Conditioning:
        """Say where the added rows stand: for each row of ``cond`` the index in its own branch."""
        if not self.roles:
            return cond
        width = len(self.texts)
        start = torch.arange(cond.rows, device=cond.text.device) // width * width
        first = width - len(self.roles)
        indices = {f"row.{role}": start + first + i for i, role in enumerate(self.roles)}
        return cond.with_(extra={**cond.extra, **indices})

    def _evaluate(
        self,
        latents: Tensor,
        level: Level,
        branches: Sequence[Branch],
        branch: Callable[[Branch], Conditioning],
        evaluate: Callable[..., Evaluation],
    ) -> dict[Branch, Tensor]:
        """Return the x0 of each branch; those that share edits and model are one batch."""
        groups: dict[tuple[str, str], list[Branch]] = {}
        for one in branches:
            groups.setdefault((one.edits, one.model), []).append(one)
        answers: dict[Branch, Tensor] = {}
        for (edits, model), together in groups.items():
            n = len(together)
            cond = concatenate(tuple(branch(b) for b in together))
            repeated = type(level)(*(t.repeat(n) for t in level))
            shown = latents.repeat(n, *[1] * (latents.dim() - 1))
            x0 = evaluate(shown, repeated, cond, model=model, edits=edits).x0
            answers |= dict(zip(together, x0.chunk(n), strict=True))
        return answers


def in_order(factors: Iterable[Branch]) -> list[Branch]:
    """Return branches in the order of a batch: negative before positive, a group behind the other."""
    groups: dict[tuple[str, str], list[Branch]] = {}
    for one in sorted(factors, key=lambda b: b.prompt):
        groups.setdefault((one.edits, one.model), []).append(one)
    return [branch for group in groups.values() for branch in group]


def combined(
    factors: Mapping[Branch, float], order: Sequence[Branch], answers: Mapping[Branch, Tensor]
) -> Tensor:
    """Return the sum of the branches' x0, each times its factor."""
    first, *others = [branch for branch in order if branch in factors]
    total = factors[first] * answers[first]
    for branch in others:
        total = total + factors[branch] * answers[branch]
    return total
