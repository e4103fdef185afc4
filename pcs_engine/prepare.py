"""From subjects to features: pictures resized, masks asked, `extract` called and merged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from pcs_core.backbone import names_token
from pcs_core.backbone.written import alike, composed, token_pattern
from pcs_core.data import LOSS, Example, Features, MaskQuery, Masks
from pcs_core.data.later import changed, entries_of
from pcs_core.data.masks import REGION, region_name
from pcs_core.errors import InputError, PluginError
from pcs_core.merge import merge_features, merge_masks
from pcs_engine.drawn_size import sized
from pcs_engine.shown import check_shown, placeholder, shown_concepts

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Subject
    from pcs_engine.run import EngineRun

DEFAULT_CAPTION = "a photo of {token}"
"""Caption of a reference for which neither the user nor a technique gives one."""

CAPTION = "{caption}"
"""In a technique's caption: what the user wrote beside the picture, if it does not name the token."""


def fit_image(image: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Return ``image`` [c h w] scaled so that it covers ``size``, then centre-cropped to it.

    A clip [c t h w] frame by frame.
    """
    if image.dim() == 4:
        return torch.stack([fit_image(f, size, mode) for f in image.unbind(1)], dim=1)
    height, width = size
    scale = max(height / image.shape[1], width / image.shape[2])
    target = (
        max(height, round(image.shape[1] * scale)),
        max(width, round(image.shape[2] * scale)),
    )
    if tuple(image.shape[1:]) != target:
        image = F.interpolate(
            image[None], size=target, mode=mode, antialias=True, align_corners=False
        )[0].clamp(0, 1)
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width].contiguous()


def fit_points(points: Tensor, shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return points [n 2] in parts of a picture of ``shape``, x and y, in parts of its ``fit_image``."""
    scale = max(size[0] / shape[0], size[1] / shape[1])
    target = [max(s, round(n * scale)) for s, n in zip(size, shape, strict=True)]
    if tuple(target) == tuple(size):
        return points
    top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
    x = (points[..., 0] * target[1] - left) / size[1]
    y = (points[..., 1] * target[0] - top) / size[0]
    return torch.stack([x, y], dim=-1)


def placed(example: Example, image: Any, size: tuple[int, int]) -> Example:
    """Return the example with the size of its ``image`` [c h w] and what :func:`fit_image` cut off it.

    ``extra["picture.size"]`` height and width before; ``extra["picture.corner"]`` top and left of the part
    that is shown, in pixels of the scaled picture. Networks that are told sizes read them.
    """
    height, width = image.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    corner = [
        (max(n, round(side * scale)) - n) // 2
        for side, n in zip((height, width), size, strict=True)
    ]
    placement = {
        "picture.size": torch.tensor([float(height), float(width)]),
        "picture.corner": torch.tensor([float(n) for n in corner]),
    }
    return example.with_(extra={**placement, **example.extra})


def fit_frames(image: Tensor, frames: int) -> Tensor:
    """Return ``image`` with the frames of the backbone's clips: ``frames`` evenly spaced ones.

    A shorter clip repeats frames. ``frames`` 0 is a backbone of pictures [c h w]; where it has frames,
    a picture is a clip of one.
    """
    if not frames:
        return image
    if image.dim() == 3:
        return image[:, None]
    chosen = torch.linspace(0, image.shape[1] - 1, frames).round().long()
    return image[:, chosen]


def framed(shape: Sequence[int], frames: int) -> tuple[int, ...]:
    """Return the shape of :func:`fit_frames` of a picture or clip of ``shape``."""
    count = frames if len(shape) == 4 else 1
    return (shape[0], count, *shape[-2:]) if frames else tuple(shape)


def references(
    subject: Subject,
    index: int,
    size: tuple[int, int],
    masks: Masks,
    frames: int = 0,
    cell: int = 1,
    only: Sequence[int] | None = None,
) -> tuple[Example, ...]:
    """Return the subject's own pictures or clips as examples of role "subject", resized, with masks.

    The error of a padded picture counts where it is one, ``cell`` pixels (a latent's) from the ground. With
    ``only`` these of them alone.
    """
    loss = masks.get(LOSS)
    examples = []
    for i in range(len(subject.images)) if only is None else only:
        image = entries_of(subject.images)[i]
        mask = loss[i] if loss is not None else None
        valid = subject.valid[i] if i < len(subject.valid) else None
        if valid is not None:
            counted = _counted(fit_image(valid, size, "bilinear"), cell)
            mask = counted if mask is None else mask * counted
        example = Example(
            image=changed(
                image,
                (*framed(image.shape, frames)[:-2], *size),
                lambda t: fit_image(fit_frames(t, frames), size),
            ),
            captions=tuple(name_subject(text, subject, i) for text in subject.texts(i)),
            repeats=subject.repeats[i] if i < len(subject.repeats) else 1,
            mask=mask,
            concepts=tuple(c.name for c in shown_concepts(subject, i)),
            subject=index,
            index=i,
            regions=regions_of(subject, i, masks),
        )
        examples.append(placed(example, image, size))
    return tuple(examples)


def _counted(valid: Tensor, cell: int) -> Tensor:
    """Return v / mean(v) [1 h w], v 1 where ``valid`` is 1 all around, by ``cell`` pixels, and else 0.

    The loss is a mean over elements: so it is the error summed over what counts, divided by how much that is.
    What an encoder says of a cell beside the ground depends on the ground. A picture too thin counts whole.
    """
    inside = (valid > 1 - 1e-4).to(valid)
    # beyond the edge of the picture there is no ground, and max_pool2d sees none there
    eroded = -F.max_pool2d(-inside[None], 2 * cell + 1, stride=1, padding=cell)[0]
    kept = eroded if bool(eroded.any()) else inside
    return kept / kept.mean().clamp_min(1e-6)


def regions_of(subject: Subject, index: int, masks: Masks) -> dict[str, Tensor]:
    """Return the regions [1 h w] of picture ``index`` by name.

    One that is empty is left out, unless the user laid it beside the picture.
    """
    slots = {concept.name: slot for slot, concept in enumerate(subject.concepts)}
    regions = {}
    for key, rows in masks.by_name.items():
        if key == LOSS:
            continue
        name = region_name(slots[key]) if key in slots else REGION + key
        if _has_mask(subject, key, index) or bool(rows[index].any()):
            regions[name] = rows[index]
    return regions


def _has_mask(subject: Subject, key: str, index: int) -> bool:
    masks = entries_of(subject.masks.get(key, ()))
    return index < len(masks) and masks[index] is not None


def name_subject(caption: str, subject: Subject, index: int) -> str:
    """Return the caption with a token in it, of the concepts that picture ``index`` shows.

    In place of the first words that are the noun of each, of one word or several, in any case, inside a
    sentence of a script without spaces too; where no noun stands there, in front. The rest stays as it is.
    """
    if any(names_token(caption, c.token) for c in subject.concepts):
        return caption
    text, shown = composed(caption), list(shown_concepts(subject, index))
    # a noun may be part of another: "hot dog" is no dog; nor is "<my-dog>", a word of somebody else
    nouns = sorted({c.noun for c in shown if c.noun}, key=len, reverse=True)
    parts = [r"<[^<>\s]+>", *(token_pattern(n, any_case=True) for n in nouns)]
    pieces, end = [], 0
    for match in re.finditer("|".join(parts), text):
        concept = next((c for c in shown if alike(c.noun, match[0])), None)
        if concept is not None:
            shown.remove(concept)
            pieces += [text[end : match.start()], concept.token]
            end = match.end()
    if not pieces:
        return f"{placeholder(shown)}, {caption}"
    return "".join([*pieces, text[end:]])


def subject_masks(run: EngineRun, subject: Subject) -> Masks:
    """Return what techniques say about a subject's pictures, each [n 1 h w] at the pictures' size.

    The user's own masks win, picture by picture.
    """
    query = MaskQuery(moment="subject", subject=subject, size=run.image_size)
    results = run.call_at(
        "mask", lambda technique, _: "subject" in technique.mask_moments, query=query
    )
    size, count = run.image_size, len(subject.images)
    merged = {
        key: torch.stack([fit_image(row, size, "bilinear") for row in rows])
        for key, rows in merge_masks(m for _, m in results).by_name.items()
    }
    for concept in subject.concepts:
        laid = [i for i in range(count) if _has_mask(subject, concept.name, i)]
        if laid:
            rows = merged.get(concept.name, torch.zeros(count, 1, *size)).clone()
            for i in laid:
                mask: Any = subject.masks[concept.name][i]
                rows[i] = fit_image(mask.float(), size, "bilinear")
            merged[concept.name] = rows
    return Masks(merged)


def check_masks(subject: Subject, masks: Masks, only: Sequence[int] | None = None) -> None:
    """Refuse a picture of which nothing is left inside the masks laid beside it: it would count in full.

    With ``only`` these pictures alone are looked at.

    Raises
    ------
    InputError
        Names the picture.
    """
    for index in range(len(subject.images)) if only is None else only:
        laid = [c.name for c in subject.concepts if _has_mask(subject, c.name, index)]
        if laid and not any(bool(masks.by_name[name][index].any()) for name in laid):
            name = subject.files[index] if index < len(subject.files) else f"picture {index}"
            raise InputError(
                f"subject {subject.name!r}: the mask of {name} is empty where the network is shown it, so "
                "that nothing of it would count: mark the subject, leave the picture out, or crop otherwise"
            )


@dataclass
class Answers:
    """What is known about one subject: its references, and what each use said, so that it may say it anew."""

    subject: Subject
    index: int
    masks: Masks
    references: tuple[Example, ...]
    said: list[tuple[str, Features]]

    def united(self) -> Features:
        """Return the subject's features; the examples of the references come first."""
        united = merge_features(self.said)
        examples = (*self.references, *united.examples)
        return Features(
            tensors=united.tensors,
            examples=_captioned(examples, united.captions, self.subject, self.index),
            concepts=(self.subject.concepts,),
            keep=united.keep,
            origin=united.origin,
        )


def extract(run: EngineRun, subjects: Sequence[Subject]) -> tuple[Features, tuple[Features, ...]]:
    """Call `extract` at "start" for each subject; return the stacked features and each subject's own.

    Examples of the references come first in each subject's own features.

    Raises
    ------
    PluginError
        A use gives a feature for some subjects only, or with another shape for each.
    """
    return unite(ask(run, subjects))


def ask(
    run: EngineRun,
    subjects: Sequence[Subject],
    sizes: Sequence[Sequence[tuple[int, int]]] = (),
) -> list[Answers]:
    """Call `extract` at "start" for each subject, with its references in ``run.features``.

    ``sizes`` are height and width of each picture of each subject, where they differ; the masks that `extract`
    is given are of the run's own size even then.
    """
    answers = []
    for index, subject in enumerate(subjects):
        check_shown(subject)
        masks = subject_masks(run, subject)
        if sizes:
            base = _of_sizes(run, subject, index, sizes[index])
        else:
            check_masks(subject, masks)
            base = references(subject, index, run.image_size, masks, run.frames, _cell(run))
        run.features = Features(examples=base, concepts=tuple(s.concepts for s in subjects))
        said = run.call("extract", subject=subject, masks=masks, moment="start")
        answers.append(Answers(subject, index, masks, base, said))
    return answers


def _of_sizes(
    run: EngineRun, subject: Subject, index: int, sizes: Sequence[tuple[int, int]]
) -> tuple[Example, ...]:
    """Return the references of a subject, each at its own size, with the masks that it has there."""
    examples: dict[int, Example] = {}
    for size in dict.fromkeys(sizes):
        rows = [row for row, one in enumerate(sizes) if one == size]
        with sized(run.backbone, size):
            masks = subject_masks(run, subject)
            check_masks(subject, masks, rows)
            shown = references(subject, index, size, masks, run.frames, _cell(run), rows)
        examples |= dict(zip(rows, shown, strict=True))
    return tuple(examples[row] for row in sorted(examples))


def _cell(run: EngineRun) -> int:
    """Return how many pixels a side one latent covers."""
    return max(1, run.image_size[0] // run.backbone.latent_shape[-2])


def ask_at_border(run: EngineRun, answers: Sequence[Answers], phase: str) -> bool:
    """Call `extract` at "phase", before ``phase`` begins, on the uses that ask for it.

    What a use says replaces all that it said before; None leaves it. Return whether anything was said.
    """
    run.phase, changed = phase, False
    for answer in answers:
        said = run.call_at(
            "extract",
            lambda technique, _: "phase" in technique.extract_moments,
            subject=answer.subject,
            masks=answer.masks,
            moment="phase",
        )
        new = dict(said)
        changed |= bool(new)
        before = {use for use, _ in answer.said}
        answer.said = [(use, new.get(use, features)) for use, features in answer.said]
        answer.said += [(use, features) for use, features in said if use not in before]
    return changed


def unite(answers: Sequence[Answers]) -> tuple[Features, tuple[Features, ...]]:
    """Return the features of all subjects, stacked, and each subject's own."""
    united = [answer.united() for answer in answers]
    names = [answer.subject.name for answer in answers]
    stacked = {
        key: _stacked(key, united, names)
        for key in dict.fromkeys(k for f in united for k in f.tensors)
    }
    merged = Features(
        tensors=stacked,
        concepts=tuple(answer.subject.concepts for answer in answers),
        keep=united[0].keep,
        origin=united[0].origin,
    )
    return merged, tuple(united)


def _stacked(key: str, united: Sequence[Features], names: Sequence[str]) -> Tensor:
    """Return the feature ``key`` of all subjects [S ...].

    Raises
    ------
    PluginError
        A subject lacks it, or its shape differs between subjects; names the use.
    """
    use = next(f.origin[key] for f in united if key in f.tensors)
    mend = (
        "features of subjects that train together stack: give each the same shape for every subject, or "
        "set stacks_subjects = False on the technique"
    )
    shapes: dict[tuple[int, ...], str] = {}
    for features, name in zip(united, names, strict=True):
        if key not in features.tensors:
            raise PluginError(f"the use {use!r} gives the feature {key!r} not for {name!r}: {mend}")
        shapes.setdefault(tuple(features.tensors[key].shape), name)
    if len(shapes) > 1:
        (first, one), (second, other) = list(shapes.items())[:2]
        raise PluginError(
            f"the use {use!r} gives the feature {key!r} with shape {list(first)} for {one!r} and "
            f"{list(second)} for {other!r}: {mend}"
        )
    return torch.stack([features.tensors[key] for features in united])


def _captioned(
    examples: Sequence[Example], captions: Sequence[str], subject: Subject, index: int
) -> tuple[Example, ...]:
    named, concepts = [], subject.concepts
    for number, example in enumerate(examples):
        # a picture is called by what it shows
        shown = [c for c in concepts if c.name in example.concepts] or concepts
        token = placeholder(shown)
        templates = tuple(
            t.replace("{token}", token).replace("{reference}", str(example.index)) for t in captions
        )
        around = [t for t in templates if CAPTION in t]
        default = tuple(t for t in templates if CAPTION not in t) or (
            DEFAULT_CAPTION.replace("{token}", token),
        )
        said, texts = subject.texts(number), []
        for place, caption in enumerate(example.captions):
            text = said[place] if place < len(said) else None
            if text is None or not around or any(names_token(text, c.token) for c in concepts):
                texts.append(caption.replace("{token}", token))
            else:
                texts += [t.replace(CAPTION, text) for t in around]
        height, width = example.picture.shape[-2:]  # what a technique gave was not fitted
        complete = placed(example, example.picture, (height, width))
        named.append(complete.with_(captions=tuple(texts) or default, subject=index))
    return tuple(named)
