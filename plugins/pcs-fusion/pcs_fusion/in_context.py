"""References as further tokens of the sequence (OminiControl, arXiv:2411.15098; FLUX.1 Kontext, 2506.15742).

A network whose picture and text share their attention reads references as it reads the picture: their latents
are tokens with places of their own. OminiControl trains a low-rank update that acts on these tokens alone; a
network that was trained to read references needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from pcs_core import Technique, fit_image, hookimpl
from pcs_core.data import Features, Fusion, SequenceEdit, WeightEdit, Words

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from pcs_core.data import Conditioning, Edit, Run, Site, Subject


class TokenLowRank(WeightEdit):
    """Factors A [r in] and B [out r] on one linear layer, for the tokens of one sequence edit alone."""

    def __init__(self, site: Site, group: str, rank: int, rng: Generator) -> None:
        super().__init__(site)
        self.group = group
        self.A = nn.Parameter(torch.randn(rank, site.shape[1], generator=rng) / rank)
        self.B = nn.Parameter(torch.zeros(site.shape[0], rank))

    def residual(self, x: Tensor, y: Tensor, cond: Conditioning | None) -> Tensor:
        """Return B A x."""
        return F.linear(F.linear(x.to(self.A.dtype), self.A), self.B).to(y.dtype)


class InContext(Technique):
    """Append the references' latents to the sequence, with places, a noise level and an update of their own."""

    id = "fusion.in_context"
    takes_clips = False
    stacks_subjects = False
    neutral = {"references": 0}
    starts_away = "the network reads the references before anything is trained"
    tiny = {"rank": 2, "sites": "*.to_q|*.to_k|*.to_v|*.norm1.linear|*.proj_out"}
    tiny_on = "tiny-flux"

    key: str = "reference"
    """The feature it makes, latents [r c h w], and the name of its tokens."""
    references: Annotated[int, Field(ge=0, le=8)] = 1
    """How many pictures of the subject are appended, the first ones; the last stands for those it lacks. 0 is
    none."""
    index: float = 0.0
    """First number of a reference's place: the picture's own is 0, the second reference has twice this."""
    shift: tuple[float, float] = (0.0, 0.0)
    """How far a reference's rows and columns are moved, in its own height and width; the second one's twice as
    far."""
    level: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """The noise level that the network is told for these tokens, 0 of a picture without noise; the one of the
    drawn picture when not given."""
    apart: bool = False
    """Whether a reference's tokens read themselves alone. With a level of its own its keys and values are then
    the same in all steps of a drawing, and computed once."""
    in_every_branch: bool = False
    """Whether guidance's negative branch reads the references too; else it reads zeros in their place."""
    rank: Annotated[int, Field(ge=0, le=1024)] = 0
    """Rank of the update of these tokens' layers; 0: none, nothing is trained."""
    sites: str = (
        "x_embedder|*.norm1.linear|*.norm.linear|attention.joint.q|attention.joint.k|attention.joint.v|"
        "attention.joint.out|*.proj_mlp|ff.out"
    )
    """Which linear layers have the update."""

    def words(self) -> Words:
        """Return what it writes."""
        if not self.references:
            return Words()
        return Words(writes=(f"feature:{self.key}", f"stream:{self.key}"))

    @hookimpl
    def extract(self, run: Run, subject: Subject, moment: str) -> Features | None:
        """Encode the references; the artifact keeps their latents."""
        if moment != "start" or not self.references or not subject.images:
            return None
        pictures = [fit_image(image, run.image_size) for image in subject.images[: self.references]]
        pictures += pictures[-1:] * (self.references - len(pictures))
        with torch.no_grad():
            latents = run.encode(torch.stack(pictures).to(run.device))
        return Features(tensors={self.key: latents.float().cpu()}, keep=(self.key,))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Append the tokens, and put the update on their layers."""
        if not self.references:
            return None
        appended = SequenceEdit(
            self.key,
            (self.key,),
            index=self.index,
            shift=self.shift,
            level=self.level,
            apart=self.apart,
            in_every_branch=self.in_every_branch,
        )
        return Fusion(edits=(appended, *(self._updates(run) if self.rank else ())))

    def _updates(self, run: Run) -> tuple[Edit, ...]:
        return tuple(
            TokenLowRank(
                site, self.key, min(self.rank, *site.shape), run.init_rng(0, f"{self.id}/{site}")
            )
            for site in run.sites(self.sites, "linear")
            if not self._unread(site, run)
        )

    def _unread(self, site: Site, run: Run) -> bool:
        """Return whether nothing reads what a layer says: of the last block all but keys and values."""
        last = run.sites("joint")[-1].name.rpartition(".")[0]
        kept = ("", "attention.joint.k", "attention.joint.v")
        return site.name.startswith(f"{last}.") and site.role not in kept
