"""A control picture steers a drawing: ControlNet (arXiv:2302.05543) and T2I-Adapter (arXiv:2302.08453)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import torch
from pydantic import Field

from pcs_core import Technique, hookimpl
from pcs_core.data import BlockEdit, BranchEdit, Fusion, Words
from pcs_core.errors import InputError
from pcs_fusion.picture_maps import Form, PictureMaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from pcs_core.data import Conditioning, Features, Run, Site

N = TypeVar("N", bound="nn.Module")
PICTURE = "layout.picture"
"""What the conditioning calls the control picture [b 3 h w] in [0, 1]."""
SCALE = "picture.scale"


def as_released(network: N) -> N:
    """Return ``network`` with buffers for its parameters: artifacts keep them, and no fit trains them."""
    for module in list(network.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return network


class PictureBranch(BranchEdit):
    """A control network that reads the control picture, and the prompt as the denoiser reads it."""

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__(name)
        self.network = as_released(network)

    def residuals(
        self, latents: Tensor, time: Tensor, cond: Conditioning
    ) -> tuple[Sequence[Tensor], Tensor] | None:
        """Return the network's residuals times the strength; None without a control picture."""
        picture = cond.extra.get(PICTURE)
        if picture is None:
            return None
        reads_pooled = getattr(self.network, "reads_pooled", False)
        pooled = (cond.pooled,) if reads_pooled else ()
        text = cond.text.to(latents.dtype)  # an encoder in fewer bits says it in its own
        down, middle = self.network(latents, time, text, picture.to(latents), *pooled)
        scale = cond.extra[SCALE].view(-1, 1, 1, 1)
        return [residual * scale for residual in down], middle * scale


class MapsBranch(BranchEdit):
    """The network of a T2I-Adapter: it makes the maps of a step, which stand in the blocks themselves."""

    def __init__(self, name: str, maps: PictureMaps) -> None:
        super().__init__(name)
        self.maps = as_released(maps)
        self.made: list[Tensor] | None = None

    def residuals(self, latents: Tensor, time: Tensor, cond: Conditioning) -> None:
        """Make the maps of the control picture, if there is one; no skip connection changes.

        Raises
        ------
        InputError
            The picture has sides that the adapter cannot read.
        """
        self.made, picture = None, cond.extra.get(PICTURE)
        if picture is None:
            return
        if any(side % self.maps.cell for side in picture.shape[-2:]):
            raise InputError(
                f"{self.owner}: a control picture of {picture.shape[-1]} x {picture.shape[-2]} pixels cannot "
                f"be read: sides must be multiples of {self.maps.cell} (--size)"
            )
        self.made = [one.to(latents) for one in self.maps(picture)]


class MapAdded(BlockEdit):
    """Adds one map of a T2I-Adapter to the stream at one place, times the strength."""

    sees = "grid"

    def __init__(self, site: Site, branch: MapsBranch, index: int) -> None:
        super().__init__(site)
        self._branch = [branch]  # in a list it is no submodule: its tensors are its own
        self.index = index

    def add(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Return the map [b c h w], or zeros without a control picture.

        Raises
        ------
        InputError
            The stream there is of another size.
        """
        made = self._branch[0].made
        if made is None:
            return torch.zeros_like(x)
        one = made[self.index]
        if one.shape[-2:] != x.shape[-2:]:
            raise InputError(
                f"{self.owner}: its map for {self.site} is {one.shape[-1]} x {one.shape[-2]} cells, and the "
                f"network has {x.shape[-1]} x {x.shape[-2]} there: draw at a size whose sides are multiples of "
                "64 (--size), with an autoencoder of 8 pixels a latent, as the adapter was made for"
            )
        return one * cond.extra[SCALE].view(-1, 1, 1, 1)


class ControlPicture(Technique):
    """A picture of edges, depth, poses ... that is given with a prompt says where things stand.

    ``--layout PICTURE`` gives it, :class:`pcs_core.data.Layout` in Python. Without one nothing is added. Its
    network is one that was imported: no fit trains it.
    """

    id = "fusion.control_picture"
    catalogue = ("control-branch",)
    reads_picture = True
    neutral = {"strength": 0.0}
    tiny_unseen = "a new control network ends in zeros; tests of imported ones show what they do"
    stacks_subjects = False

    form: Literal["control", "full", "xl", "light"] = "control"
    """What reads the picture: a control network beside the denoiser, or a T2I-Adapter (its full form, SDXL's,
    or the light one)."""
    grey: bool = False
    """Of a T2I-Adapter: whether it reads luminance alone, not colours."""
    depth: Annotated[int, Field(ge=1, le=16)] = 2
    """Of a T2I-Adapter: residual blocks for each map."""
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """Factor of what is added; sampling may set another under ``"picture.scale"``."""

    def words(self) -> Words:
        """Return what it reads and writes."""
        return Words(may_read=("place:picture",), writes=(f"strength:{SCALE}",))

    @hookimpl
    def fuse(self, run: Run, features: Features) -> Fusion | None:
        """Put the control network, or the adapter, beside the denoiser."""
        strengths = {SCALE: self.strength}
        if self.form == "control":
            branch = PictureBranch("picture", run.control_network(3))
            return Fusion(edits=(branch,), strengths=strengths)
        places = map_places(run)
        with run.seeded(self.id):
            maps = PictureMaps(
                self.form,
                [p.width for p in places],
                channels=1 if self.grey else 3,
                depth=self.depth,
            )
        beside = MapsBranch("picture", maps)
        added = (MapAdded(place, beside, index) for index, place in enumerate(places))
        return Fusion(edits=(beside, *added), strengths=strengths)


MAPS = 4
"""Maps of the published adapters."""


def map_places(run: Run) -> list[Site]:
    """Return where the maps are added: in each block of the way down, then behind the middle, four at most.

    In a block with transformers behind the last of them, so that the skip connection there has it too.

    Raises
    ------
    CapabilityError
        The network has no such blocks.
    """
    behind = run.sites("after_transformer")
    blocks = [s for s in run.sites("after_block") if s.name.startswith(("down", "mid"))]
    places = []
    for block in blocks[:MAPS]:
        inner = [s for s in behind if s.name.startswith(f"{block.layer}.attentions.")]
        places.append(inner[-1] if inner and block.name.startswith("down") else block)
    return places


__all__ = ["ControlPicture", "Form", "MapAdded", "MapsBranch", "PictureBranch", "map_places"]
