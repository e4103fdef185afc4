"""From subjects to pools of encoded examples: masks, extraction, latents and text, all before the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from pcs_core.backbone import Attachment, TokenisedPrompts, tokenise
from pcs_core.data import LOSS, Example, Features, MaskQuery, Masks
from pcs_core.errors import RecipeError
from pcs_core.merge import merge_features, merge_masks

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Subject
    from pcs_core.engine.run import EngineRun

DEFAULT_CAPTION = "a photo of {token}"
"""Caption of a reference for which neither the user nor a technique gives one."""

ENCODE_BATCH = 16


def fit_image(image: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Return ``image`` [c h w] scaled so that it covers ``size``, then centre-cropped to it."""
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


def references(
    subject: Subject, index: int, size: tuple[int, int], masks: Masks
) -> tuple[Example, ...]:
    """Return the subject's own pictures as examples of role "subject", resized, with masks."""
    loss = masks.get(LOSS)
    examples = []
    for i, image in enumerate(subject.images):
        given = next((m[i] for m in subject.masks.values() if m[i] is not None), None)
        mask = loss[i] if loss is not None else None
        extra = {} if given is None else {"subject_mask": fit_image(given, size, "bilinear")}
        caption = subject.captions[i] if i < len(subject.captions) else None
        examples.append(
            Example(
                image=fit_image(image, size),
                captions=() if caption is None else (name_subject(caption, subject),),
                mask=None if mask is None else fit_image(mask, size, "bilinear"),
                concepts=tuple(c.name for c in subject.concepts),
                subject=index,
                index=i,
                extra=extra,
            )
        )
    return tuple(examples)


def name_subject(caption: str, subject: Subject) -> str:
    """Return the caption with the token in it: in place of the first noun, or in front."""
    concept = subject.concept
    if any(c.token in caption for c in subject.concepts):
        return caption
    words = caption.split()
    for i, word in enumerate(words):
        if word.strip(".,;:!?").lower() == concept.noun.lower():
            words[i] = word.lower().replace(concept.noun.lower(), concept.token)
            return " ".join(words)
    return f"{concept.token}, {caption}"


def subject_masks(run: EngineRun, subject: Subject) -> Masks:
    """Ask the mask techniques about a subject; the user's own masks win."""
    query = MaskQuery(moment="subject", subject=subject, size=run.image_size)
    results = run.call_at(
        "mask", lambda technique, _: "subject" in technique.mask_moments, query=query
    )
    return merge_masks(m for _, m in results)


def extract(run: EngineRun, subjects: Sequence[Subject]) -> tuple[Features, tuple[Features, ...]]:
    """Call `extract` at "start" for each subject; return the stacked features and each subject's own.

    Examples of the references come first in each subject's own features.
    """
    own: list[Features] = []
    for index, subject in enumerate(subjects):
        masks = subject_masks(run, subject)
        base = references(subject, index, run.image_size, masks)
        run.features = Features(examples=base, concepts=tuple(s.concepts for s in subjects))
        found = merge_features(run.call("extract", subject=subject, masks=masks, moment="start"))
        own.append(
            Features(
                tensors=found.tensors,
                examples=_captioned((*base, *found.examples), found.captions, subject, index),
                transforms=found.transforms,
                concepts=(subject.concepts,),
                keep=found.keep,
                origin=found.origin,
            )
        )
    keys = own[0].tensors.keys()
    stacked = {key: torch.stack([f.tensors[key] for f in own]) for key in keys}
    merged = Features(
        tensors=stacked,
        concepts=tuple(s.concepts for s in subjects),
        keep=own[0].keep,
        origin=own[0].origin,
    )
    return merged, tuple(own)


def _captioned(
    examples: Sequence[Example], captions: Sequence[str], subject: Subject, index: int
) -> tuple[Example, ...]:
    templates = tuple(captions) or (DEFAULT_CAPTION,)
    token = " and ".join(c.token for c in subject.concepts)
    default = tuple(t.replace("{token}", token) for t in templates)
    named = []
    for example in examples:
        texts = tuple(c.replace("{token}", token) for c in example.captions) or default
        named.append(example.with_(captions=texts, subject=index))
    return tuple(named)


@dataclass
class Pool:
    """Encoded examples of one subject. ``roles`` maps a role to rows of the tensors.

    ``mean``, ``std`` [n c h w] are the moments of the latents; ``mask`` [n 1 h w] weighs the error;
    ``texts`` per row, indices into the caption table.
    """

    roles: Mapping[str, list[int]]
    mean: Tensor
    std: Tensor
    weight: Tensor
    mask: Tensor | None
    texts: list[list[int]]
    index: list[int]


@dataclass
class CaptionTable:
    """All captions of a fit, tokenised once; encoded once too where nothing in the text trains.

    ``text`` [m l d] and ``pooled`` [m d] are None when the text must be encoded in every step.
    """

    captions: list[tuple[int, str]] = field(default_factory=list)
    tokens: TokenisedPrompts | None = None
    text: Tensor | None = None
    pooled: Tensor | None = None

    def add(self, subject: int, caption: str) -> int:
        """Return the row of ``caption`` for ``subject``, added if new."""
        key = (subject, caption)
        if key not in self.captions:
            self.captions.append(key)
        return self.captions.index(key)

    def encode(self, net: Attachment, *, constant: bool) -> None:
        """Tokenise all captions and, if ``constant``, encode them."""
        fusion = net.fusion
        subjects = [s for s, _ in self.captions]
        self.tokens = tokenise(
            [c for _, c in self.captions],
            net.backbone.tokenizer,
            words=fusion.words,
            tokens=fusion.tokens,
            subjects=subjects,
        )
        self.text = self.pooled = None  # an earlier phase may have left what it could keep
        if not constant:
            return
        index = torch.tensor(subjects, device=net.backbone.device)
        with torch.no_grad():
            parts = [
                net.encode_text(self._rows(range(i, min(i + 64, len(subjects)))), index[i : i + 64])
                for i in range(0, len(subjects), 64)
            ]
        self.text = torch.cat([t for t, _ in parts])
        pooled = [p for _, p in parts if p is not None]
        self.pooled = torch.cat(pooled) if pooled else None

    def _rows(self, rows: Sequence[int]) -> TokenisedPrompts:
        assert self.tokens is not None
        index = torch.as_tensor(list(rows))
        spans = {k: v[index] for k, v in self.tokens.spans.items()}
        return TokenisedPrompts(self.tokens.ids[index], spans)

    def read(
        self, net: Attachment, rows: Sequence[int], subject: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return text and pooled of the given rows, from the table or encoded now."""
        if self.text is not None:
            index = torch.as_tensor(list(rows), device=self.text.device)
            return self.text[index], None if self.pooled is None else self.pooled[index]
        return net.encode_text(self._rows(rows), subject)


def encode_pools(
    net: Attachment, features: Sequence[Features], roles: Sequence[str]
) -> tuple[list[Pool], CaptionTable]:
    """Encode every example once.

    Raises
    ------
    RecipeError
        A phase asks for a role no technique gives examples of.
    """
    table = CaptionTable()
    pools = []
    cache: dict[int, tuple[Tensor, Tensor]] = {}  # shared pictures (prior) are encoded once
    for subject, own in enumerate(features):
        examples = list(own.examples)
        by_role: dict[str, list[int]] = {}
        for row, example in enumerate(examples):
            by_role.setdefault(example.role, []).append(row)
        for role in roles:
            if role not in by_role:
                raise RecipeError(
                    f"a phase asks for examples of role {role!r}, but no technique of the recipe "
                    f"gives any (roles found: {', '.join(by_role)})"
                )
        _encode_missing(net, examples, cache)
        moments = [cache[_identity(e)] for e in examples]
        pools.append(
            Pool(
                roles=by_role,
                mean=torch.stack([m for m, _ in moments]),
                std=torch.stack([s for _, s in moments]),
                weight=torch.tensor([e.weight for e in examples], device=net.backbone.device),
                mask=_latent_masks(examples, moments[0][0]),
                texts=[[table.add(subject, c) for c in e.captions] for e in examples],
                index=[e.index for e in examples],
            )
        )
    return pools, table


def _identity(example: Example) -> int:
    return example.image.data_ptr()


def _encode_missing(
    net: Attachment, examples: Sequence[Example], cache: dict[int, tuple[Tensor, Tensor]]
) -> None:
    missing = {_identity(e): e.image for e in examples if _identity(e) not in cache}
    keys = list(missing)
    for start in range(0, len(keys), ENCODE_BATCH):
        chunk = keys[start : start + ENCODE_BATCH]
        images = net.pixels(torch.stack([missing[k] for k in chunk]), "input")
        mean, std = net.backbone.moments(images)
        cache.update({k: (mean[i], std[i]) for i, k in enumerate(chunk)})


def _latent_masks(examples: Sequence[Example], like: Tensor) -> Tensor | None:
    if all(e.mask is None for e in examples):
        return None
    size = tuple(like.shape[-2:])
    full = torch.ones(1, *size)
    rows = [
        full if e.mask is None else F.interpolate(e.mask[None], size=size, mode="area")[0]
        for e in examples
    ]
    return torch.stack(rows).to(like.device)


def text_is_constant(net: Attachment, training: Sequence[str]) -> bool:
    """True when no parameter in ``training`` changes what the text encoder says."""
    fusion = net.fusion
    touching = {e.owner for e in fusion.tokens}
    touching |= {w.owner for w in fusion.weights if w.site.part == "text"}
    touching |= {w.owner for w in fusion.layers if w.site.part == "text"}
    touching |= {s.owner for s in (*fusion.swaps, *fusion.injections) if s.part == "text"}
    # a use that edits both parts counts as touching: its text parameters train with it
    return not any(name.split("/", 1)[0] in touching for name in training)
