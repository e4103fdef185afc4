"""Every other parameterisation, through peft.

LoRA (arXiv:2106.09685), rsLoRA (arXiv:2312.03732), DoRA (arXiv:2402.09353), LoHa (FedPara,
arXiv:2108.06098), LoKr (LyCORIS, arXiv:2309.14859), OFT (arXiv:2306.07280), BOFT
(arXiv:2311.06243).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import Fusion
from pcs_core.errors import CapabilityError
from pcs_weights.injection import Injected

if TYPE_CHECKING:
    from pcs_core.data import Run, Site

Kind = Literal["lora", "rslora", "dora", "loha", "lokr", "oft", "boft"]
PROPORTIONAL: Mapping[Kind, tuple[str, ...]] = {
    "lora": ("*/lora_B*",),
    "rslora": ("*/lora_B*",),
    "loha": ("*/hada_w1_a*",),
    "lokr": ("*/lokr_w1", "*/lokr_w1_b"),
}
"""Kind -> one factor of what it adds to a weight; "dora", "oft" and "boft" do not add in proportion."""


class Peft(Technique):
    """One of peft's parameterisations on chosen linear layers."""

    id = "weights.peft"
    rowwise = True
    catalogue = ("lora", "oft", "lokr-loha")
    stacks_subjects = False

    kind: Kind = "dora"
    """Which parameterisation."""
    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    """Rank, or block size for oft and boft."""
    alpha: Annotated[float, Field(gt=0.0)] | None = None
    """Numerator of the scale, the rank when not given."""
    sites: str = "attention.*.q|attention.*.k|attention.*.v|attention.*.out"
    """Globs over layer names, joined by ``|``."""
    part: Literal["denoiser", "text"] = "denoiser"
    """Which network gets it."""
    convolutions: bool = False
    """Whether matching convolutions take part."""
    blocks: Annotated[int, Field(ge=1)] | None = None
    """Number of rotations along the diagonal (oft); the block size, then, is not ``rank``."""
    block_share: bool = False
    """Whether all blocks of a layer are one rotation (oft)."""
    coft: bool = False
    """Whether each rotation stays near the identity (oft): COFT, section 3.2 of the paper."""
    eps: Annotated[float, Field(ge=0.0)] = 6e-5
    """How far it may turn under ``coft``, per number of a block, as in the authors' code: the skew-symmetric
    generator of a block of n x n has a Frobenius norm of at most eps n^2 / sqrt(blocks); 0 allows no
    rotation. 6e-5 with four blocks is 0.19 at width 320 and 3.1 at width 1280."""

    def weighed(self) -> tuple[str, ...]:
        """Return one factor of the product, where it is added to the weight: no rotation, no magnitude."""
        return PROPORTIONAL.get(self.kind, ())

    def implements(self) -> tuple[str, ...]:
        """Return the family of the parameterisation."""
        if self.kind in ("oft", "boft"):
            return ("oft",)
        return ("lokr-loha",) if self.kind in ("lokr", "loha") else ("lora",)

    @hookimpl
    def fuse(self, run: Run) -> Fusion | None:
        """Make the peft configuration and its edit."""
        kinds = ("linear", "conv") if self.convolutions else ("linear",)
        sites = tuple(s for s in run.sites(self.sites, "*", self.part) if s.kind in kinds)
        if not sites:
            raise CapabilityError(
                f"{self.id}: no layer of part {self.part!r} matches {self.sites!r}"
            )
        if self.kind == "oft" and any(len(s.shape) == 4 and s.shape[-1] > 1 for s in sites):
            raise CapabilityError(
                f"{self.id}: oft is not a no-op on convolutions with a kernel above 1 (peft 0.21): "
                "use kind = 'boft' or leave convolutions out"
            )
        root = run.backbone.parts[self.part]  # type: ignore[attr-defined]
        seed = run.init_rng(0, self.id).initial_seed() % 2**31
        adjust = partial(widen, eps=self.eps) if self.kind == "oft" and self.coft else None
        return Fusion(edits=(Injected(self.part, sites, root, self._config(sites), seed, adjust),))

    def _config(self, sites: tuple[Site, ...]) -> Any:
        import peft

        targets = [s.name for s in sites]
        alpha = self.rank if self.alpha is None else self.alpha
        low_rank = {"r": self.rank, "target_modules": targets}
        if self.kind in ("lora", "rslora", "dora"):
            return peft.LoraConfig(
                lora_alpha=alpha,
                use_rslora=self.kind == "rslora",
                use_dora=self.kind == "dora",
                **low_rank,
            )
        if self.kind == "loha":
            return peft.LoHaConfig(alpha=alpha, **low_rank)
        if self.kind == "lokr":
            return peft.LoKrConfig(alpha=alpha, **low_rank)
        if self.kind == "oft":
            size = {"r": self.blocks or 0, "oft_block_size": 0 if self.blocks else self.rank}
            return peft.OFTConfig(
                **size,
                coft=self.coft,
                eps=self.eps,
                block_share=self.block_share,
                use_cayley_neumann=False,  # the series is orthogonal near zero only
                target_modules=targets,
            )
        return peft.BOFTConfig(boft_block_size=self.rank, target_modules=targets)


def widen(layer: Any, eps: float) -> None:
    """Give each rotation of a peft OFT layer the radius of the authors' COFT.

    peft holds the generator of a block within eps / sqrt(blocks) whatever the block's size n; the authors'
    code (Zeju1997/oft, oft-db/oft_utils/attention_processor.py) within eps n^2 / sqrt(blocks), or eps n^2
    where the blocks share one.
    """
    for rotation in layer.oft_R.values():
        rotation.eps = eps * rotation.block_size**2
