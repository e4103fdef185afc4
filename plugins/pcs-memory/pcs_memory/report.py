"""The answer of ``pcs memory``: as text, and as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pcs_memory.taken import Taken, in_words

if TYPE_CHECKING:
    from pcs_memory.settings import Setting

BESIDE = (
    "beside it: kernels' workspaces, the allocator's reserve, a GPU's context (about 1 GB together)"
)


@dataclass(frozen=True, slots=True)
class Tried:
    """A setting, and what a fit with it and a drawing after it take."""

    setting: Setting
    fit: Taken
    drawing: Taken
    read: bool = False
    """Whether weights were read for it."""

    def line(self, there: int) -> str:
        """Say whether a fit with it needs no more than ``there``."""
        return fit_line(self.setting, self.fit.peak, there)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON-able data, in bytes."""
        return {
            "options": self.setting.options,
            "fit": _plain(self.fit),
            "drawing": _plain(self.drawing),
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """What was tried for a system on a backbone, in order; the last is what is answered."""

    system: str
    backbone: str
    place: str
    tried: tuple[Tried, ...]
    there: int | None = None

    @property
    def fits(self) -> bool:
        """Whether the last one needs no more than there is."""
        return self.there is None or self.tried[-1].fit.peak <= self.there

    @property
    def chosen(self) -> Tried:
        """The first that fits; else the one that takes least."""
        return self.tried[-1] if self.fits else min(self.tried, key=lambda t: t.fit.peak)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON-able data, in bytes."""
        return {
            "system": self.system,
            "backbone": self.backbone,
            "memory of": self.place,
            "have": self.there,
            "fits": self.fits,
            "options": self.chosen.setting.options,
            "tried": [one.plain() for one in self.tried],
        }

    def text(self) -> str:
        """Return it in lines."""
        one = self.chosen
        fit, drawing = one.fit, one.drawing
        command = " ".join(["pcs fit", self.system, "...", "--backbone", self.backbone])
        lines = [
            f"{self.system} on {self.backbone}, memory of {self.place}; "
            + ("its weights were read, and not used" if one.read else "no weights were read"),
            f"{command} {one.setting.options}".rstrip(),
            f"  at most        {in_words(fit.peak):>8}, while {fit.stage}",
            f"  weights        {in_words(sum(fit.weights.values())):>8}: {_parts(fit)}",
        ]
        if fit.trained:
            lines += [
                f"  what trains    {in_words(fit.trained):>8}, the optimizer's state "
                f"{in_words(fit.optimizer)}",
                f"  latents, texts {in_words(fit.kept):>8}, and pictures that stay from step to step",
                f"  a step         {in_words(fit.step):>8}: what it computes and keeps for its backward pass, "
                f"{in_words(fit.gradients)} of it gradients",
            ]
        if fit.waiting:
            where = "in the host's memory" if fit.elsewhere else "beside them"
            lines.append(
                f"  originals      {in_words(fit.waiting):>8} of weights in full wait {where} for the fit's end"
            )
        lines += [f"  while {stage}: {in_words(peak)}" for stage, peak in fit.peaks.items()]
        lines += [
            f"pcs sample: at most {in_words(drawing.peak)}, while {drawing.stage}",
            BESIDE,
        ]
        if self.there is not None and not self.fits:
            lines.append(
                f"nothing of what was tried needs no more than {in_words(self.there)}: a smaller --size, fewer "
                "rows a step (--set PHASE.batch.ROLE=1) or a smaller backbone may"
            )
        return "\n".join(lines)


def fit_line(setting: Setting, peak: int, there: int) -> str:
    """Say whether a fit with ``setting``, which takes ``peak``, needs no more than ``there`` (bytes)."""
    fits = "fits" if peak <= there else f"is more than {in_words(there)}"
    return f"pcs fit {setting.options or '(without options)'}: {in_words(peak)}, {fits}"


def _parts(taken: Taken) -> str:
    return ", ".join(f"{name} {in_words(size)}" for name, size in taken.weights.items())


def _plain(taken: Taken) -> dict[str, Any]:
    return {
        "peak": taken.peak,
        "while": taken.stage,
        "peaks": dict(taken.peaks),
        "weights": dict(taken.weights),
        "trained": taken.trained,
        "gradients": taken.gradients,
        "optimizer": taken.optimizer,
        "kept": taken.kept,
        "step": taken.step,
        "waiting": taken.waiting,
    }
