"""A deployment folder as a backbone: the same loops, hooks and guidance on ONNX Runtime or OpenVINO.

The edits of an artifact are bound as on any backbone, to a tree of layers without weights; a call of
the network collects their tensors and feeds them to the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pcs_core.data import BackboneCard, Fusion, Site
from pcs_core.errors import CapabilityError
from pcs_onnx import manifest
from pcs_onnx.binding import bind
from pcs_onnx.deployed_graph import DeployedGraph
from pcs_onnx.holdings import Holdings
from pcs_onnx.openvino_session import OpenVinoSession, check_options
from pcs_onnx.providers import OPENVINO, chosen, openvino_version, providers
from pcs_onnx.schedulers import process, sampler
from pcs_onnx.sessions import Session
from pcs_onnx.sizes import latent_shape
from pcs_onnx.skeleton import skeleton
from pcs_onnx.table import GraphTable
from pcs_onnx.tokenizer import FileTokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import AttentionChain, Context, Sampler
    from pcs_core.data import Conditioning


EACH_STEP = ("denoiser", "control", "decoder", "light")
"""Graphs whose inputs change with every step or picture; the others remember."""


class OnnxBackbone(Holdings):
    """Implements :class:`pcs_core.backbone.Backbone` on the graphs of ``folder``.

    ``wanted`` are execution providers by short name, ``disabled`` ONNX Runtime's optimizers not to use
    beside those that the manifest names, ``precision`` what OpenVINO computes in. Sessions open when they
    are first needed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        preferred: Sequence[str] = (),
        disabled: Sequence[str] = (),
        precision: str = "fp32",
    ) -> None:
        # refused before anything is read
        self.chosen, self.precision = chosen(device, preferred), precision
        self.openvino = self.chosen[0] == OPENVINO
        if not self.openvino:
            providers(device, self.chosen)
        check_options(precision, disabled, runs=self.openvino)
        self.manifest = facts = manifest.read(folder)
        self.folder = folder
        self.device, self.dtype = torch.device(device), torch.float32
        card = dict(facts["backbone"])
        self.card = BackboneCard(
            **{**card, "size": tuple(card["size"]), "location": str(folder.resolve())}
        )
        self.latent_shape = tuple(facts["latent_shape"])
        self.text_widths: tuple[int, ...] = tuple(facts.get("text_widths", ()))
        self.tokenizer = FileTokenizer(folder, facts["tokenizer"])
        self.scheduler_config: dict[str, Any] = dict(facts["scheduler"])
        self.process = process(self.card.prediction, self.scheduler_config, self.device)
        self.sites: Sequence[Site] = [
            Site(**{**site, "shape": tuple(site["shape"])}) for site in facts["sites"]
        ]
        self._parts = {
            part: skeleton(self.sites, part, facts["parameters"].get(part))
            for part in ("denoiser", "text", "vae")
        }
        off = tuple(dict.fromkeys((*facts["disabled_optimizers"], *disabled)))
        start = partial(Session, device=device, preferred=self.chosen, disabled=off)
        self.graphs = {
            name: DeployedGraph(
                name,
                folder,
                graph,
                self._openvino(name) if self.openvino else start,
                remembers=name not in EACH_STEP,
            )
            for name, graph in facts["graphs"].items()
        }
        self.embedding: nn.Module = self._table()
        self.context: Context | None = None

    def _openvino(self, name: str) -> Callable[..., OpenVinoSession]:
        # what runs once per prompt or subject takes every number of references as it comes
        each_step = name in EACH_STEP
        precision = self.precision if each_step else "fp32"
        return partial(OpenVinoSession, precision=precision, fixed=each_step)

    def _table(self) -> nn.Module:
        if "table" in self.graphs:
            return GraphTable(self.graphs["table"], self.tokenizer)
        rows = manifest.read_tensors(self.folder / "embedding.safetensors")["table"]
        rows = rows.to(self.device)
        return nn.Embedding.from_pretrained(rows, freeze=True)

    @property
    def engine(self) -> dict[str, Any]:
        """What runs the networks: for reports."""
        return {
            "name": "onnx",
            **self._library(),
            "providers": {k: g.providers for k, g in self.graphs.items() if g.providers},
            "opset": self.manifest["opset"],
            "dtype": self.manifest["dtype"],
        }

    def _library(self) -> dict[str, Any]:
        if self.openvino:
            facts = {"openvino": openvino_version(), "precision": self.precision}
            return {**facts, "chosen": list(self.chosen)}
        import onnxruntime

        names = providers(str(self.device), self.chosen)
        return {"onnxruntime": onnxruntime.__version__, "chosen": names}

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Trees of layers without weights, for edits to be bound to."""
        return self._parts

    def at(self, height: int, width: int) -> OnnxBackbone:
        """Draw pictures of another size from now on; return this backbone.

        Raises
        ------
        CapabilityError
            The graphs take one size only, or the network's levels do not divide this one.
        """
        self.latent_shape = latent_shape(self.manifest, self.folder, height, width)
        self.card = replace(self.card, size=(height, width))
        return self

    def bind_fusion(self, fusion: Fusion, context: Context) -> Callable[[], None]:
        """Take note of all that an attachment plugs in; return what forgets it.

        Raises
        ------
        CapabilityError
            The graphs were exported for another system, or other settings of it.
        """
        before, self.context = self.context, context
        try:
            undo = bind(self, fusion)
        except BaseException:
            self.context = before
            raise

        def back() -> None:
            undo()
            self.context = before

        return back

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Do nothing: no attention runs here, and edits were bound with their fusion."""
        return lambda: None

    def bind_text_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Do nothing, as :meth:`bind_attention`."""
        return lambda: None

    def projection(self, site: Site, part: str) -> nn.Linear:
        """Return a stand-in of the layer's shape: what it would start from is in the artifact."""
        path = self.manifest["projections"][site.name][part]
        layer: Any = self._parts["denoiser"].get_submodule(path)
        stand_in: nn.Linear = layer
        return stand_in

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return text [b l d] and pooled [b d]; rows of learned words come from the token table."""
        outputs = self.graphs["text"]({"embeds": self.embedding(ids), "ids": ids}, self.context)
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse: a deployment draws, and holds no encoder of pictures."""
        raise CapabilityError(
            f"{self.folder}: this deployment holds no VAE encoder: fit on the backbone itself"
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1]."""
        return self.graphs["decoder"].run([latents.float()], [])[0]

    def denoise(
        self,
        latents: Tensor,
        time: Tensor,
        cond: Conditioning,
        *,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return the network's native output [b c h w].

        Raises
        ------
        CapabilityError
            Attention maps or gradients are wanted, which no graph gives, or the graph takes no residuals.
        """
        self._refuse(latents, residuals is not None)
        given = {"latents": latents, "time": time, "text": cond.text}
        further = {"layered": cond.layered, "pooled": cond.pooled}
        given |= {k: v for k, v in further.items() if v is not None}
        given |= {f"stream/{k}": v for k, v in cond.streams.items()}
        given |= {f"strength/{k}": v for k, v in cond.extra.items()}
        if residuals is not None:
            given |= {f"residual/{i}": v for i, v in enumerate((*residuals[0], residuals[1]))}
        if "keys" in self.graphs:
            keys = self.graphs["keys"]
            keys.edits = self.graphs["denoiser"].edits
            given |= {f"key/{i}": v for i, v in enumerate(keys(given, self.context))}
        return self.graphs["denoiser"](given, self.context)[0]

    def _refuse(self, latents: Tensor, controlled: bool) -> None:
        """Refuse what no graph gives, by name."""
        if controlled and not any(e["kind"] == "residual" for e in self.graphs["denoiser"].inputs):
            raise CapabilityError(f"{self.folder}: this deployment takes no control residuals")
        if self.context is not None and self.context.record:
            raise CapabilityError(
                f"{self.folder}: a technique records attention maps of "
                f"{', '.join(self.context.record)}, which are no outputs of the graph: draw on the "
                "backbone itself"
            )
        if torch.is_grad_enabled() and latents.requires_grad:
            raise CapabilityError(
                f"{self.folder}: a technique wants gradients of the network, which a graph has not: "
                "draw on the backbone itself"
            )

    def sampler(self, scheduler: str, steps: int) -> Sampler:
        """Return a fresh sampler."""
        return sampler(scheduler, self.scheduler_config, steps, self.process, self.device)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Refuse to recompute: nothing trains here."""
        if function is not None:
            raise CapabilityError(f"{self.folder}: a deployment cannot be trained")
