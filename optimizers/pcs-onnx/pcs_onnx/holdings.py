"""What a deployment holds beside its denoiser: control network, encoders, light decoder, adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pcs_core.data import BackboneCard, Personalization
from pcs_core.errors import CapabilityError
from pcs_onnx import manifest
from pcs_onnx.stand_ins import ControlStandIn, EncoderStandIn

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from pcs_onnx.deployed_graph import DeployedGraph


class Holdings:
    """The part of a deployed backbone that hands them out."""

    folder: Path
    card: BackboneCard
    manifest: Mapping[str, Any]
    graphs: Mapping[str, DeployedGraph]

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Return a stand-in that runs the exported control network.

        Raises
        ------
        CapabilityError
            None is exported, or one that reads other pictures.
        """
        graph = self.graphs.get("control")
        if graph is None or graph.facts["channels"] != channels:
            raise CapabilityError(
                f"{self.folder}: this deployment holds no control network"
                + (f" of {channels} channels" if graph is not None else "")
            )
        return ControlStandIn(graph)

    def feature_model(self, id: str) -> EncoderStandIn | None:
        """Return the exported feature model ``id``, or None."""
        graphs = [g for g in self.graphs.values() if g.facts.get("model") == id]
        return EncoderStandIn(graphs, self.manifest["encoders"][id]) if graphs else None

    def adapter(self, system: str) -> Personalization | None:
        """Return the pre-trained weights of ``system`` that were exported, or None."""
        return self._adapter if system == self.manifest["system"] else None

    @cached_property
    def _adapter(self) -> Personalization | None:
        from pcs_core import recipe_from_document

        file = self.folder / manifest.ADAPTER
        if not file.is_file():
            return None
        recipe = recipe_from_document(self.manifest["recipe"])
        extra = {"sha256": self.manifest["adapter"]}
        return Personalization(
            recipe, self.card, concepts=(), tensors=manifest.read_tensors(file), extra=extra
        )

    def light_decoder(self, location: str = "") -> Callable[[Tensor], Tensor]:
        """Return the exported light decoder; ``location`` was said at the export.

        Raises
        ------
        CapabilityError
            None is exported.
        """
        if "light" not in self.graphs:
            raise CapabilityError(
                f"{self.folder}: this deployment holds no light decoder: export with --option "
                "light_decoder=own, or a folder of one"
            )
        return lambda latents: self.graphs["light"].run([latents.float()], [])[0]
