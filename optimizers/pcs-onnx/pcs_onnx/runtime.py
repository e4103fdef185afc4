"""A deployment folder as a backbone: the same loops, hooks and guidance on ONNX Runtime.

The edits of an artifact are bound as on any backbone, to a tree of layers without weights; a call of
the network collects their tensors and feeds them to the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

from pcs_core.backbone import VariancePreserving
from pcs_core.data import BackboneCard, Site
from pcs_core.errors import CapabilityError, InputError
from pcs_onnx import manifest
from pcs_onnx.edits import constants, digest, identity, input_name, padded, tensors
from pcs_onnx.refusals import across_steps
from pcs_onnx.schedulers import DeployedSampler
from pcs_onnx.sessions import Session
from pcs_onnx.skeleton import skeleton
from pcs_onnx.tokenizer import FileTokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone import AttentionChain, Context
    from pcs_core.data import Conditioning, Edit

LAYER_STAGES = ("before", "weight", "call", "residual", "after")


class OnnxBackbone:
    """Implements :class:`pcs_core.backbone.Backbone` on the graphs of ``folder``."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        self.manifest = facts = manifest.read(folder)
        self.folder = folder
        self.device, self.dtype = torch.device("cpu"), torch.float32
        card = dict(facts["backbone"])
        self.card = BackboneCard(
            **{**card, "size": tuple(card["size"]), "location": str(folder.resolve())}
        )
        self.latent_shape = tuple(facts["latent_shape"])
        self.tokenizer = FileTokenizer(folder / "tokenizer.json", facts["tokenizer"])
        self.scheduler_config: dict[str, Any] = dict(facts["scheduler"])
        schedule = DeployedSampler("ddim", self.scheduler_config, 1).scheduler
        self.process = VariancePreserving(schedule.alphas_cumprod, self.card.prediction)  # type: ignore[arg-type]
        self.sites: Sequence[Site] = [
            Site(**{**site, "shape": tuple(site["shape"])}) for site in facts["sites"]
        ]
        self._parts = {part: skeleton(self.sites, part) for part in ("denoiser", "text", "vae")}
        table = load_file(folder / "embedding.safetensors")["table"]
        self.embedding: nn.Module = nn.Embedding.from_pretrained(table, freeze=True)
        self.graphs = {
            name: _Graph(name, folder, graph, device) for name, graph in facts["graphs"].items()
        }
        self.context: Context | None = None

    @property
    def engine(self) -> dict[str, Any]:
        """What runs the networks: for reports."""
        import onnxruntime

        return {
            "name": "onnx",
            "onnxruntime": onnxruntime.__version__,
            "providers": {name: g.session.providers for name, g in self.graphs.items()},
            "opset": self.manifest["opset"],
        }

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Trees of layers without weights, for edits to be bound to."""
        return self._parts

    def bind_attention(self, chains: Mapping[str, AttentionChain]) -> Callable[[], None]:
        """Take note of all edits that an attachment bound; return what forgets them.

        Raises
        ------
        CapabilityError
            The graphs were exported for another system, or other settings of it.
        """
        before = self.context, {name: graph.edits for name, graph in self.graphs.items()}
        attention = [e for chain in chains.values() for own in chain.stages.values() for e in own]
        layers = {part: _layer_edits(self._parts[part]) for part in self._parts}
        self.context = next((chain.context for chain in chains.values()), None)
        self.graphs["denoiser"].bind([*attention, *layers["denoiser"]])
        self.graphs["text"].bind(layers["text"])
        self.graphs["decoder"].bind(layers["vae"])

        def undo() -> None:
            self.context = before[0]
            for name, edits in before[1].items():
                self.graphs[name].edits = edits

        return undo

    def projection(self, site: Site, part: str) -> nn.Module:
        """Return a stand-in of the layer's shape: what it would start from is in the artifact."""
        path = self.manifest["projections"][site.name][part]
        return self._parts["denoiser"].get_submodule(path)

    def control_network(self, channels: int, width: float) -> nn.Module:
        """Refuse: no graph of one is exported."""
        raise CapabilityError(f"{self.folder}: this deployment holds no control network")

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return text [b l d] and pooled [b d]; rows of learned words come from the token table."""
        graph = self.graphs["text"]
        found = graph({"embeds": self.embedding(ids), "ids": ids}, self.context)
        return found[0], found[1] if len(found) > 1 else None

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse: a deployment draws, and holds no encoder of pictures."""
        raise CapabilityError(
            f"{self.folder}: this deployment holds no VAE encoder: fit on the backbone itself"
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [n 3 h w] in [0, 1]."""
        return self.graphs["decoder"]({"latents": latents.float()}, None)[0]

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
            Residuals, attention maps or gradients are wanted, which no graph gives.
        """
        if residuals is not None:
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
        given = {"latents": latents.float(), "time": time.float(), "text": cond.text.float()}
        if cond.layered is not None:
            given["layered"] = cond.layered.float()
        given |= {f"stream/{k}": v.float() for k, v in cond.streams.items()}
        given |= {f"strength/{k}": v.float() for k, v in cond.extra.items()}
        return self.graphs["denoiser"](given, self.context)[0]

    def sampler(self, scheduler: str, steps: int) -> DeployedSampler:
        """Return a fresh sampler."""
        return DeployedSampler(scheduler, self.scheduler_config, steps)

    def checkpointing(self, function: Callable[..., Any] | None) -> None:
        """Refuse to recompute: nothing trains here."""
        if function is not None:
            raise CapabilityError(f"{self.folder}: a deployment cannot be trained")


class _Graph:
    """A session, what it takes, and the edits whose tensors it takes now."""

    def __init__(self, name: str, folder: Path, facts: Mapping[str, Any], device: str) -> None:
        self.name, self.folder, self.facts = name, folder, facts
        self.inputs: list[dict[str, Any]] = facts["inputs"]
        self.session = Session(folder / facts["file"], device, facts["rows"])
        self.edits: list[Edit] = []

    def bind(self, edits: Sequence[Edit]) -> None:
        """Take the edits of an attachment; refuse those that the graph does not know."""
        self.edits = [e for e in edits if e.mode != "fit"]
        known = self.facts["edits"]
        for edit in self.edits:
            if edit.ACROSS_STEPS:
                raise CapabilityError(f"{self.folder}: {across_steps(edit)}")
            name = identity(edit)
            if name not in known:
                raise self.other(f"it knows no {name!r}")
            if constants(edit) != known[name]:
                mine = constants(edit)
                key = next(k for k in {**mine, **known[name]} if mine.get(k) != known[name].get(k))
                raise self.other(
                    f"{name!r} has {key} = {mine.get(key)!r}, the graph {known[name].get(key)!r}"
                )
        if self.edits and len(self.edits) < len(known):
            missing = set(known) - {identity(e) for e in self.edits}
            raise self.other(f"the artifact has no {min(missing)!r}")
        if self.edits and digest(self.edits, self.facts["baked"]) != self.facts["baked_sha256"]:
            raise self.other("the artifact builds on other pre-trained weights")

    def __call__(self, given: Mapping[str, Tensor], context: Context | None) -> list[Tensor]:
        """Run the graph with ``given`` and the tensors of the edits in force."""
        off = context is None or context.off or not self.edits
        acting = [] if off or context is None else [e for e in self.edits if context.acts(e)]
        if acting and len(acting) < len(self.edits):
            left = next(e for e in self.edits if e not in acting)
            raise CapabilityError(
                f"{self.folder}: {left.owner!r} is switched off in a step while others act, which "
                "the graph cannot: draw on the backbone itself"
            )
        if not acting and self.facts["edits"] and not self.facts["neutral"]:
            raise CapabilityError(
                f"{self.folder}: the {self.name}'s graph has no form without its edits: draw on the "
                "backbone itself"
            )
        own = {input_name(e, path): value for e in acting for path, value in tensors(e).items()}
        rows = next(iter(given.values())).shape[0]
        batched, constant = [], []
        for entry in self.inputs:
            if entry["kind"] == "tensor":
                constant.append(self.tensor(entry, own) if acting else _zeros(entry, None))
            elif not acting and entry["kind"] in ("stream", "strength"):
                batched.append(_zeros(entry, rows))
            elif entry["name"] not in given:
                raise self.other(f"it needs the input {entry['name']!r}")
            else:
                batched.append(given[entry["name"]])
        return self.session(batched, constant)

    def tensor(self, entry: Mapping[str, Any], own: Mapping[str, Tensor]) -> Tensor:
        """Return what is fed as the input ``entry``, filled up with zeros to its shape."""
        name, shape = entry["name"], tuple(entry["shape"])
        if name not in own:
            raise self.other(f"it needs {name!r}, which the artifact has not")
        value = padded(own[name].float(), shape, entry["padded_axis"])
        if value is None:
            raise self.other(
                f"{name!r} has shape {tuple(own[name].shape)}, the graph takes {shape}"
            )
        return value

    def other(self, why: str) -> CapabilityError:
        """Return the error of a graph that was exported for something else."""
        return CapabilityError(
            f"{self.folder}: the {self.name}'s graph does not fit this artifact: {why}. Export its "
            "system again with `pcs export`"
        )


def _zeros(entry: Mapping[str, Any], rows: int | None) -> Tensor:
    lead = () if rows is None else (rows,)
    return torch.zeros((*lead, *entry["shape"]))


def _layer_edits(root: nn.Module) -> list[Edit]:
    """Return the edits bound to the layers of ``root``."""
    found: list[Edit] = []
    for module in root.modules():
        bound = vars(module).get("forward")
        for stage in LAYER_STAGES:
            found += getattr(bound, stage, ())
    return found


def load(
    location: str | Path, *, id: str = "", device: str = "cpu", dtype: torch.dtype | None = None
) -> OnnxBackbone | None:
    """Open a deployment folder, or return None if it is none.

    Raises
    ------
    ArtifactError
        It is damaged, or of another version of the format.
    InputError
        ONNX Runtime has no execution provider for ``device``, or ``dtype`` is not the exported one.
    """
    folder = Path(location)
    if not folder.is_dir() or not manifest.is_deployment(folder):
        return None
    if dtype not in (None, torch.float32):
        raise InputError(f"{folder}: the deployment is in float32, not in {dtype}")
    return OnnxBackbone(folder, device=device)
