"""What is computed from features. An eye is anything with ``image_features`` and, for prompts,
``text_features``, both [n d] of unit norm; which eye looks is said by the entry, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Eye = Callable[[], Any]
"""Opens what looks."""
Measure = Callable[..., Tensor]


def text_alignment(eye: Eye) -> Measure:
    """Cosine of each picture with its prompt (CLIP-T, arXiv:2208.12242, section 4.1)."""

    def measure(pictures: Tensor, *, prompts: Sequence[str], **_: Any) -> Tensor:
        return (eye().image_features(pictures) * eye().text_features(prompts)).sum(1)

    return measure


def subject_similarity(eye: Eye) -> Measure:
    """Mean cosine with the references (CLIP-I and DINO-I, arXiv:2208.12242, section 4.1)."""

    def measure(pictures: Tensor, *, references: Tensor, **_: Any) -> Tensor:
        return (eye().image_features(pictures) @ eye().image_features(references).T).mean(1)

    return measure


def masked_similarity(eye: Eye, segment: Callable[[Tensor], Tensor]) -> Measure:
    """The same of subject pixels only: the rest is grey, and the cut-out is centred.

    ``segment`` cuts pictures out, and references too where they come without masks.
    """

    def measure(
        pictures: Tensor, *, references: Tensor, masks: Tensor | None = None, **_: Any
    ) -> Tensor:
        masks = segment(references) if masks is None else masks
        kept = masks.flatten(1).amax(1) > 0.5
        seen = eye().image_features(cut_out(references[kept], masks[kept]))
        return (eye().image_features(cut_out(pictures, segment(pictures))) @ seen.T).mean(1)

    return measure


def copy_score(eye: Eye) -> Measure:
    """How much nearer a picture is to one reference than the references are to each other.

    0: no nearer; 1: the reference itself (survey, arXiv:2405.05538, section 8.1: what similarity
    rewards and should not). Needs two references.
    """

    def measure(pictures: Tensor, *, references: Tensor, **_: Any) -> Tensor:
        seen = eye().image_features(references)
        between = (seen @ seen.T).fill_diagonal_(-1).amax(1).mean()
        nearest = (eye().image_features(pictures) @ seen.T).amax(1)
        return ((nearest - between) / (1 - between).clamp_min(1e-6)).clamp(0, 1)

    return measure


def background_leak(eye: Eye, segment: Callable[[Tensor], Tensor]) -> Measure:
    """Cosine of a picture's background with the nearest reference's; the subjects are grey."""

    def measure(
        pictures: Tensor, *, references: Tensor, masks: Tensor | None = None, **_: Any
    ) -> Tensor:
        masks = segment(references) if masks is None else masks
        behind = eye().image_features(_grey(references, 1 - masks))
        backgrounds = eye().image_features(_grey(pictures, 1 - segment(pictures)))
        return (backgrounds @ behind.T).amax(1)

    return measure


def prompt_drop(eye: Eye) -> Measure:
    """1 where a picture dropped its prompt, 0 where not; the mean is the rate.

    Dropped: its alignment is nearer to that of the references, which were taken without the prompt,
    than to that of the untuned backbone, which follows it. So there is no threshold to choose.
    """

    def measure(
        pictures: Tensor, *, prompts: Sequence[str], references: Tensor, untuned: Tensor, **_: Any
    ) -> Tensor:
        said = eye().text_features(prompts)
        alignment = (eye().image_features(pictures) * said).sum(1)
        follows = (eye().image_features(untuned) * said).sum(1)
        ignores = (said @ eye().image_features(references).T).mean(1)
        return (alignment < (follows + ignores) / 2).float()

    return measure


def preference(judge: Callable[[], Any]) -> Measure:
    """A learned score of picture and prompt, as the published model gives it."""

    def measure(pictures: Tensor, *, prompts: Sequence[str], **_: Any) -> Tensor:
        scores: Tensor = judge().score(pictures, prompts)
        return scores

    return measure


def feature_diversity(eye: Eye) -> Measure:
    """Mean of 1 - cosine over pairs of pictures of one prompt; one value of a set."""

    def measure(pictures: Tensor, *, prompts: Sequence[str], **_: Any) -> Tensor:
        seen = eye().image_features(pictures)
        apart = [1 - (seen[a] * seen[b]).sum() for a, b in same_prompt(prompts)]
        return torch.stack(apart).mean()[None] if apart else torch.tensor([float("nan")])

    return measure


def same_prompt(prompts: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of pictures that share a prompt."""
    n = len(prompts)
    return [(a, b) for a in range(n) for b in range(a + 1, n) if prompts[a] == prompts[b]]


def pair_subjects(eye: Eye) -> Measure:
    """Of a pair: how like its references the less well drawn of the two is, in its best window."""

    def measure(pictures: Tensor, *, references: Tensor, **_: Any) -> Tensor:
        of_first, of_second = _windows_of_pair(eye(), pictures, references)
        return torch.minimum(of_first.amax(1), of_second.amax(1))

    return measure


def identity_mixing(eye: Eye) -> Measure:
    """Of a pair: how much each subject, where it is best seen, looks like the other.

    0: no more than their references do among themselves; higher is more mixed.
    """

    def measure(pictures: Tensor, *, references: Tensor, **_: Any) -> Tensor:
        of_first, of_second = _windows_of_pair(eye(), pictures, references)
        one, other = eye().image_features(references).chunk(2)
        apart = (one @ other.T).mean()
        at_first = of_second.gather(1, of_first.argmax(1, keepdim=True))[:, 0]
        at_second = of_first.gather(1, of_second.argmax(1, keepdim=True))[:, 0]
        return (at_first + at_second) / 2 - apart

    return measure


def _windows_of_pair(eye: Any, pictures: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarity of every window with the first and the second subject, [n w] each."""
    cuts = windows(pictures)
    seen = eye.image_features(cuts.flatten(0, 1)).unflatten(0, cuts.shape[:2])
    one, other = eye.image_features(references).chunk(2)
    return (seen @ one.T).mean(2), (seen @ other.T).mean(2)


def windows(pictures: Tensor, sides: Sequence[float] = (0.5, 0.7), steps: int = 3) -> Tensor:
    """Return square windows [n w 3 s s] of each picture, of several sides, on a grid."""
    h, w = pictures.shape[-2:]
    cuts = []
    for part in sides:
        tall, wide = round(h * part), round(w * part)
        for i in range(steps):
            for j in range(steps):
                top = round((h - tall) * i / (steps - 1))
                left = round((w - wide) * j / (steps - 1))
                cut = pictures[..., top : top + tall, left : left + wide]
                cuts.append(
                    torch.nn.functional.interpolate(cut, (h, w), mode="bilinear", antialias=True)
                )
    return torch.stack(cuts, 1)


def _grey(pictures: Tensor, keep: Tensor) -> Tensor:
    return pictures * keep + 0.5 * (1 - keep)


def cut_out(pictures: Tensor, masks: Tensor) -> Tensor:
    """Return each masked subject [n 3 h w] on grey, scaled to fill the picture."""
    h, w = pictures.shape[-2:]
    grey, cutouts = _grey(pictures, masks), []
    for picture, mask in zip(grey, masks, strict=True):
        rows = (mask[0] > 0.5).any(1).nonzero().flatten().tolist()
        columns = (mask[0] > 0.5).any(0).nonzero().flatten().tolist()
        if rows:
            side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
            top = max(0, min((rows[0] + rows[-1] + 1 - side) // 2, h - side))
            left = max(0, min((columns[0] + columns[-1] + 1 - side) // 2, w - side))
            picture = picture[:, top : top + side, left : left + side]
        cutouts.append(
            torch.nn.functional.interpolate(
                picture[None], (h, w), mode="bilinear", antialias=True, align_corners=False
            )[0]
        )
    return torch.stack(cutouts)
