"""A vector of each reference takes up what its picture alone shows (DisenBooth, arXiv:2305.03374, section 3).

The words of a subject are shared by all its pictures, f_s; what else is in picture i (its background, the
pose) is left to f_i, which the text's states get in the fit and in no drawing. Read from `train_disenbooth.py`
and `disen_net.py` of the authors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, fit_image, hookimpl
from pcs_core.data import REFERENCE, Features, Fusion, Loss, StreamEdit, Words

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Conditioning, FitStep, Run, Subject

KEY = "disentangle"
PICTURES = f"{KEY}.pictures"
"""Feature: what the image encoder says of each reference, [references d]."""


class OwnVectors(StreamEdit):
    """f = P(m * x) + MLP(m * x) with m = sigmoid(mask): a vector [b n w] for each of n pictures [b n d].

    P is the identity where the text is as wide as the feature, as the authors' pair of models is. Elsewhere it
    is a matrix that trains, and starts as the identity's first entries.
    """

    def __init__(self, feature: int, width: int) -> None:
        super().__init__(KEY, [PICTURES], in_every_branch=True, mode="fit")
        self.mask = nn.Parameter(torch.zeros(feature))
        self.mlp = nn.Sequential(nn.Linear(feature, feature), nn.ReLU(), nn.Linear(feature, width))
        self.through = nn.Parameter(torch.eye(width, feature)) if width != feature else None

    def stream(self, *features: Tensor) -> Tensor:
        """Return the vectors of all of a subject's pictures."""
        masked = torch.sigmoid(self.mask) * features[0].to(self.mask.dtype)
        passed = masked if self.through is None else F.linear(masked, self.through)
        added: Tensor = self.mlp(masked)
        return passed + added


class Disentangle(Technique):
    """Fit the shared words together with a vector of each reference, so that the words need not carry the rest.

    A phase that trains so names its terms "disentangle.*" alone (``losses``): the plain error, which reads the
    words alone, is one of them. A step takes a forward for the words and one for words and vector.
    """

    id = "fusion.disentangle"
    rowwise = True
    takes_clips = False
    stacks_subjects = False
    catalogue = ("image-encoder", "identity-disentangle")
    neutral = {"joint": 0.0, "common": 0.0, "specific": 0.0, "apart": 0.0}
    tiny = {"model": "tiny.image"}

    model: str = "clip.image.h14"
    """Feature model with ``pooled``: it is shown each reference as the network is, cut and scaled."""
    joint: Annotated[float, Field(ge=0.0)] = 1.0
    """Factor of the error where each position of the text has the vector added ("disentangle.joint")."""
    common: Annotated[float, Field(ge=0.0)] = 0.01
    """Factor of the error of the words alone ("disentangle.common"): the authors' weak denoising."""
    specific: Annotated[float, Field(ge=0.0)] = 0.0
    """Factor of the error where the vector stands at each position in the words' place
    ("disentangle.specific"); DisenBooth has none."""
    apart: Annotated[float, Field(ge=0.0)] = 0.001
    """Factor of the cosine of the vector and the mean of the text's positions ("disentangle.apart"), which is
    made small."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(writes=(f"feature:{PICTURES}", f"stream:{KEY}"))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Encode each reference once: nothing of it changes in the fit."""
        if moment != "start" or not subject.images:
            return None
        encoder = run.feature_model(self.model)
        shown = torch.stack([fit_image(image, run.image_size) for image in subject.images])
        with torch.no_grad():
            encoded = encoder.pooled(shown.to(run.device))
        return Features(tensors={PICTURES: encoded.float().cpu()}, keep=(PICTURES,))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Make the network of the vectors. It acts in the fit alone."""
        feature = features.get(PICTURES, self.id).shape[-1]
        with run.seeded(self.id):
            return Fusion(edits=(OwnVectors(feature, run.text_width),))

    @hookimpl
    def regularize(self, run: Run, step: FitStep) -> list[Loss]:
        """Return the terms that have a factor: a value for each of the subject's rows."""
        cond, rows = step.cond, step.batch.rows("subject")
        vector = _row_vectors(cond)
        terms = {}
        if self.joint:
            terms["joint"] = self._error(step, _shifted(cond, vector))
        if self.common:
            terms["common"] = _mean(step.error)
        if self.specific:
            terms["specific"] = self._error(step, _replaced(cond, vector))
        if self.apart:
            said = cond.text.float().mean(dim=1)
            terms["apart"] = F.cosine_similarity(said, vector[:, 0].float(), dim=-1, eps=1e-6)
        return [
            Loss(f"{KEY}.{name}", value, weight=getattr(self, name), rows=rows)
            for name, value in terms.items()
        ]

    def _error(self, step: FitStep, cond: Conditioning) -> Tensor:
        """Return the error [b] of the network that is told ``cond``."""
        output = step.evaluate(step.noisy, step.level, cond).output
        return _mean(step.compute_error(output, step.target))


def _mean(error: Tensor) -> Tensor:
    """Return the mean [b] over all elements of each row."""
    return error.mean(dim=tuple(range(1, error.dim())))


def _row_vectors(cond: Conditioning) -> Tensor:
    """Return the vector [b 1 w] of the reference that each row comes from; zeros where it comes from none."""
    vectors, index = cond.streams[KEY], cond.extra[REFERENCE]
    rows = torch.arange(len(vectors), device=vectors.device)
    vector = vectors[rows, index.clamp_min(0)] * (index >= 0).to(vectors).unsqueeze(-1)
    return vector.unsqueeze(1)


def _shifted(cond: Conditioning, vector: Tensor) -> Conditioning:
    """Return ``cond`` with the vector added at every position of the text."""
    layered = None if cond.layered is None else cond.layered + vector.unsqueeze(1).to(cond.layered)
    return cond.with_(text=cond.text + vector.to(cond.text), layered=layered)


def _replaced(cond: Conditioning, vector: Tensor) -> Conditioning:
    """Return ``cond`` with the vector at every position of the text, in place of what stood there."""
    layered = None if cond.layered is None else vector.unsqueeze(1).expand_as(cond.layered)
    return cond.with_(text=vector.to(cond.text).expand_as(cond.text), layered=layered)
