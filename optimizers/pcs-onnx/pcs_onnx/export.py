"""``pcs export --to onnx``: text encoder, denoiser and VAE decoder as graphs, and what they need.

The denoiser's graph knows the edits of a system and none of its subjects: strengths, image tokens and
every tensor that a subject trains are inputs. Pre-trained tensors of the system are constants.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from pcs_core.errors import CapabilityError, InputError
from pcs_onnx import manifest
from pcs_onnx.edits import constants, digest, identity
from pcs_onnx.graphs import Argument, DecoderRoot, DenoiserRoot, Lifted, TextRoot, lift, plain
from pcs_onnx.refusals import check
from pcs_onnx.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from pcs_core.backbone import Attachment
    from pcs_core.data import Edit, Recipe

LOGGER = logging.getLogger("pcs")
ROWS = 63
"""Largest batch of a graph: an upsampling layer of diffusers asks whether it is 64 or more."""
TOLERANCE = 1e-5
"""Largest difference of a graph from the network, relative to the largest output, fp32."""
OPSETS = (20, 21, 22, 23)
VERSIONS = ("pcs-core", "pcs-onnx", "torch", "onnx", "onnxscript", "onnxruntime", "diffusers")


@torch.no_grad()
def export(
    net: Attachment,
    folder: Path,
    recipe: Recipe,
    features: Mapping[str, Tensor],
    baked: Collection[str],
    *,
    opset: int = 23,
    external_data: bool = True,
) -> dict[str, Any]:
    """Write the deployment of an attached system into ``folder``; return its manifest.

    ``features`` are stacked [1 ...], ``baked`` the names of tensors that are the same for every
    subject. ``opset`` 23 has one node per attention, 20 none for it nor for group norm.

    Raises
    ------
    CapabilityError
        A part of the system cannot be exported, or a graph does not give what the network gives.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset} is not supported: {', '.join(map(str, OPSETS))} are")
    check(net)
    folder.mkdir(parents=True, exist_ok=True)
    work = _Work(net, folder, opset, external_data)
    tokenizer = _write_tokenizer(net, folder)
    table = net.backbone.embedding.weight
    assert isinstance(table, torch.Tensor)
    save_file({"table": table.detach().clone().contiguous()}, folder / "embedding.safetensors")
    graphs = {
        "text": work.text(baked),
        "denoiser": work.denoiser(features, baked),
        "decoder": work.decoder(),
    }
    backbone: Any = net.backbone
    return manifest.write(
        folder,
        {
            "format": "onnx",
            "system": recipe.id,
            "recipe": recipe.document,
            "backbone": asdict(backbone.card),
            "latent_shape": list(backbone.latent_shape),
            "dtype": "float32",
            "opset": opset,
            "external_data": external_data,
            "tolerance": {"relative": TOLERANCE},
            "versions": {name: version(name) for name in VERSIONS},
            "scheduler": dict(backbone.scheduler_config),
            "tokenizer": tokenizer,
            "sites": [asdict(site) for site in backbone.sites if site.part != "vae"],
            "projections": _projections(net),
            "graphs": graphs,
        },
    )


class _Work:
    """One export: each graph is written, run, and compared with the network."""

    def __init__(self, net: Attachment, folder: Path, opset: int, external: bool) -> None:
        self.net, self.folder, self.opset, self.external = net, folder, opset, external
        self.rng = torch.Generator().manual_seed(0)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng)

    def text(self, baked: Collection[str]) -> dict[str, Any]:
        backbone = self.net.backbone
        table: Any = backbone.embedding.weight
        ids = torch.randint(0, table.shape[0], (2, backbone.tokenizer.length), generator=self.rng)
        ids[:, -3:] = backbone.tokenizer.end
        edits = self.edits("text")
        arguments = [*plain({"embeds": table[ids].clone(), "ids": ids}), *lift(edits, baked)]
        return self.graph("text", TextRoot(self.net, edits), arguments, edits, baked)

    def denoiser(self, features: Mapping[str, Tensor], baked: Collection[str]) -> dict[str, Any]:
        net, backbone = self.net, self.net.backbone
        table: Any = backbone.embedding.weight
        ids = torch.randint(0, table.shape[0], (2, backbone.tokenizer.length), generator=self.rng)
        text, _ = backbone.encode_ids(ids)
        kinds: dict[str, Tensor] = {
            "latents": self.random(2, *backbone.latent_shape),
            "time": torch.tensor([900.0, 100.0]),
            "text": text,
        }
        if any(edit.stage() == "layer" for edit in net.fusion.tokens):
            kinds["layered"] = self.random(2, net.layers, *text.shape[1:])
        subject = torch.zeros(2, dtype=torch.long)
        for name, stream in net.streams(net.read_features(features, subject)).items():
            kinds[f"stream/{name}"] = self.random(*stream.shape)
        for name in net.fusion.strengths:
            kinds[f"strength/{name}"] = torch.tensor([1.0, 0.4])
        edits = self.edits("denoiser")
        arguments = [*plain(kinds), *lift(edits, baked)]
        return self.graph("denoiser", DenoiserRoot(net, edits, arguments), arguments, edits, baked)

    def decoder(self) -> dict[str, Any]:
        latents = self.random(2, *self.net.backbone.latent_shape)
        return self.graph("decoder", DecoderRoot(self.net), plain({"latents": latents}), (), ())

    def edits(self, part: str) -> list[Edit]:
        """Return the edits inside ``part`` that act in sampling."""
        fusion = self.net.fusion
        layered: list[Any] = [*fusion.weights, *fusion.layers]
        found: list[Edit] = [e for e in layered if e.site.part == part]
        if part == "denoiser":
            found = [*fusion.attention, *found]
        return [e for e in found if e.mode != "fit"]

    def graph(
        self,
        name: str,
        root: nn.Module,
        arguments: Sequence[Argument],
        edits: Sequence[Edit],
        baked: Collection[str],
    ) -> dict[str, Any]:
        """Write one graph and return what the manifest says of it."""
        lifted = Lifted(
            root, sum(a.kind != "tensor" for a in arguments), [a.path for a in arguments if a.path]
        )
        LOGGER.info("exporting the %s", name)
        outputs = self.write(name, lifted, arguments)
        session = Session(self.folder / f"{name}.onnx", "cpu", ROWS)
        if len(session.names) != len(arguments):
            unread = {a.name for a in arguments} - set(session.names)
            raise CapabilityError(
                f"the {name}'s graph lost inputs ({', '.join(sorted(unread)[:3])}): nothing would "
                "change with them"
            )
        error = self.compare(name, session, lifted, arguments)
        return {
            "file": f"{name}.onnx",
            "inputs": [_input(a, fed) for a, fed in zip(arguments, session.names, strict=True)],
            "outputs": outputs,
            "rows": ROWS,
            "max_error": error,
            "neutral": self.neutral(lifted, arguments),
            "edits": {identity(e): constants(e) for e in edits},
            "baked": sorted(baked),
            "baked_sha256": digest(edits, baked),
        }

    def write(self, name: str, lifted: Lifted, arguments: Sequence[Argument]) -> int:
        batch = torch.export.Dim("batch", min=1, max=ROWS)
        dims = tuple({} if a.kind == "tensor" else {0: batch} for a in arguments)
        examples = tuple(a.example for a in arguments)
        result = lifted(*examples)
        count = len(result) if isinstance(result, tuple) else 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                lifted.eval(),
                examples,
                dynamo=True,
                opset_version=self.opset,
                input_names=[a.name for a in arguments],
                dynamic_shapes={"values": dims},
                verbose=False,
            )
        assert program is not None
        program.save(str(self.folder / f"{name}.onnx"), external_data=self.external)
        return count

    def compare(
        self, name: str, session: Session, lifted: Lifted, arguments: Sequence[Argument]
    ) -> float:
        """Return the largest relative error for other rows and other tensors than the example's.

        Raises
        ------
        CapabilityError
            It is above the tolerance.
        """
        values = [
            a.example + 0.05 * self.random(*a.example.shape) * (a.example.dim() > 0)
            if a.kind == "tensor"
            else torch.cat([a.example, a.example[:1]])
            for a in arguments
        ]
        count = lifted.plain
        expected = lifted(*values)
        wanted = expected if isinstance(expected, tuple) else (expected,)
        worst = 0.0
        for want, found in zip(wanted, session(values[:count], values[count:]), strict=True):
            worst = max(
                worst, float((want - found).abs().max() / want.abs().max().clamp_min(1e-12))
            )
        if not worst <= TOLERANCE:
            raise CapabilityError(
                f"the {name}'s graph differs from the network by {worst:.1e} (relative), more than "
                f"{TOLERANCE:.0e}"
            )
        return worst

    def neutral(self, lifted: Lifted, arguments: Sequence[Argument]) -> bool:
        """Return whether zeros for strengths and tensors give what the network gives without edits."""
        values = [
            torch.zeros_like(a.example) if a.kind in ("tensor", "strength", "stream") else a.example
            for a in arguments
        ]
        off = lifted(*values)
        bare = _bare(self.net, lifted, values)
        pairs = zip(
            off if isinstance(off, tuple) else (off,),
            bare if isinstance(bare, tuple) else (bare,),
            strict=True,
        )
        return all(torch.equal(a, b) for a, b in pairs)


def _bare(net: Attachment, lifted: Lifted, values: Sequence[Tensor]) -> Any:
    with net.under(off=True):
        return lifted(*values)


def _input(argument: Argument, fed: str) -> dict[str, Any]:
    return {
        "name": argument.name,
        "kind": argument.kind,
        "graph_name": fed,
        "shape": list(argument.example.shape[argument.kind != "tensor" :]),
        "dtype": str(argument.example.dtype).removeprefix("torch."),
        "padded_axis": argument.axis,
    }


def _write_tokenizer(net: Attachment, folder: Path) -> dict[str, int]:
    tokenizer: Any = net.backbone.tokenizer
    inner = getattr(tokenizer, "inner", None)
    fast = getattr(inner, "backend_tokenizer", None)
    if fast is None:
        raise CapabilityError(
            f"backbone {net.backbone.card.id!r}: its tokenizer has no form that `tokenizers` reads"
        )
    fast.save(str(folder / "tokenizer.json"))
    return {name: int(getattr(tokenizer, name)) for name in ("length", "start", "end", "pad")}


def _projections(net: Attachment) -> dict[str, dict[str, str]]:
    """Return the path of the layer behind each projection of each attention site."""
    backbone = net.backbone
    paths = {id(m): name for name, m in backbone.parts["denoiser"].named_modules()}
    found: dict[str, dict[str, str]] = {}
    for site in backbone.sites:
        if site.part == "denoiser" and site.kind in ("self", "cross", "temporal"):
            layers = {p: backbone.projection(site, p) for p in ("q", "k", "v", "out")}
            found[site.name] = {p: paths[id(m)] for p, m in layers.items()}
    return found
