"""What a run took, in bytes, and by what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

ENCODING = "pictures are encoded"
READING = "texts are read"
DENOISING = "a step"
DECODING = "pictures are decoded"
ASKED = {ENCODING: "vae", READING: "text", DENOISING: "denoiser", DECODING: "vae"}
"""Stage of a run -> the part of the backbone that answers."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The bytes of a fit or a drawing.

    ``weights`` by part of the backbone; ``trained``, ``gradients`` and ``optimizer`` of what trains; ``kept``
    is what else stays from step to step (latents, texts); ``peaks`` by stage is everything that lives at once.
    """

    weights: Mapping[str, int]
    peaks: Mapping[str, int]
    trained: int = 0
    gradients: int = 0
    optimizer: int = 0
    kept: int = 0
    waiting: int = 0
    """Originals of weights that wait meanwhile for the end of a fit in low precision."""
    elsewhere: bool = False
    """Whether they wait in another memory."""

    graded: frozenset[str] = frozenset()
    """Parts of the backbone that were asked with gradients: offloading leaves them where they are."""

    of_a_step: int | None = None
    """What :attr:`step` is, where the peaks leave out weights."""

    def offloaded(self) -> Taken:
        """Return what is taken where parts wait in the host's memory until they are asked (``offload``)."""
        peaks = {}
        for stage, part in ASKED.items():
            if stage not in self.peaks:
                continue
            within = stage in (DENOISING, DECODING) or part in self.graded
            here = {part, *(self.graded if within else ())}
            away = sum(size for name, size in self.weights.items() if name not in here)
            peaks[stage] = self.peaks[stage] - away
        return replace(self, peaks=peaks, of_a_step=self.step)

    @property
    def peak(self) -> int:
        """The most bytes that live at once."""
        return max(self.peaks.values(), default=sum(self.weights.values()))

    @property
    def stage(self) -> str:
        """When that is."""
        return max(self.peaks, key=lambda name: self.peaks[name], default="")

    @property
    def step(self) -> int:
        """What a step computes and keeps for its backward pass, gradients too, beside all that stays."""
        if self.of_a_step is not None:
            return self.of_a_step
        beside = 0 if self.elsewhere else self.waiting
        stays = sum(self.weights.values()) + self.trained + self.optimizer + self.kept + beside
        most = max(self.peaks.get(DENOISING, 0), self.peaks.get(DECODING, 0))
        return max(0, most - stays)


def in_words(count: int) -> str:
    """Return bytes in GB, or MB where they are few."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
