"""Which graphs a system has: text encoder, denoiser, decoders, control network, projectors, encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pcs_core.backbone import tokenise
from pcs_core.data import BranchEdit, StreamEdit, TokenEdit
from pcs_core.errors import CapabilityError
from pcs_onnx.arguments import conditioning, lift, plain
from pcs_onnx.graphs import CallRoot, ControlRoot, DenoiserRoot, StreamRoot, TextRoot
from pcs_onnx.resizing import resized_by_products
from pcs_onnx.table import TableRoot
from pcs_onnx.watching import called, modules_of, read_by_denoiser

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pcs_core.data import Conditioning, Edit
    from pcs_onnx.writing import Writer

POINTS = 5
"""Key points of an example layout: those of a face."""


def size_step(net: Any) -> int:
    """Return what divides height and width of the latents on every level of the denoiser."""
    return max((s.scale for s in net.backbone.sites if s.part == "denoiser"), default=1)


class Parts:
    """Writes them, one method each. ``features`` are stacked [1 ...]."""

    def __init__(self, writer: Writer, features: Mapping[str, Tensor]) -> None:
        self.writer, self.net, self.features = writer, writer.net, features

    def look(self, light: str | None = None) -> None:
        """Run once what is traced later, and open the ``light`` decoder: what fails, fails now.

        Raises
        ------
        CapabilityError
            A branch has no one network, the network is told a picture's size and graphs of every size
            are wanted, or the light decoder does not fit.
        """
        kinds, _ = self.kinds()
        cond, latents, time = self.cond(kinds), kinds["latents"], kinds["time"]
        if self.writer.size.step and "pooled" in read_by_denoiser(self.net, latents, time, cond):
            raise CapabilityError(
                f"backbone {self.net.backbone.card.id!r} is conditioned on the size of the picture: "
                "its graphs take one size, leave out size=dynamic"
            )
        for branch in self.net.fusion.of(BranchEdit):
            called(branch, latents, time, cond)
        if light is not None:
            self.net.backbone.light_decoder(light)  # type: ignore[attr-defined]

    def table(self) -> dict[str, Any]:
        """Write the token tables of several encoders."""
        backbone = self.net.backbone
        root = TableRoot(backbone.embedding, backbone.parts["text"])
        return self.writer.graph("table", root, plain({"ids": self.ids()}))

    def text(self) -> dict[str, Any]:
        """Write the text encoder behind its token table."""
        ids, table = self.ids(), self.net.backbone.embedding
        embeds = table(ids).detach().clone()
        edits = self.edits("text")
        arguments = [*plain({"embeds": embeds, "ids": ids}), *lift(edits, self.writer.baked)]
        return self.writer.graph("text", TextRoot(self.net, edits), arguments, edits)

    def denoiser(self) -> dict[str, Any]:
        """Write the denoiser: adapters, strengths and residuals are inputs."""
        net, random = self.net, self.writer.random
        kinds, grids = self.kinds()
        cond = self.cond(kinds)
        seen = read_by_denoiser(net, kinds["latents"], kinds["time"], cond)
        kinds = {
            k: v
            for k, v in kinds.items()
            if k in seen or not k.startswith(("stream/", "strength/", "pooled"))
        }
        if any(edit.stage() == "layer" for edit in net.fusion.of(TokenEdit)):
            kinds["layered"] = random(2, net.layers, *kinds["text"].shape[1:])
        side = net.backbone.latent_shape[-2]
        for branch in net.fusion.of(BranchEdit):
            answer = branch.residuals(kinds["latents"], kinds["time"], cond)
            assert answer is not None, "one that calls no network is refused before"
            down, middle = answer
            for index, value in enumerate((*down, middle)):
                kinds[f"residual/{index}"] = 0.1 * random(*value.shape)
                grids[f"residual/{index}"] = value.shape[-2] / side
        edits = self.edits("denoiser")
        arguments = [*plain(kinds, grids), *lift(edits, self.writer.baked)]
        root = DenoiserRoot(net, edits, arguments)
        return self.writer.graph("denoiser", root, arguments, edits, halves=True)

    def decoder(self) -> dict[str, Any]:
        """Write the decoder of the VAE."""
        backbone = self.net.backbone
        root = CallRoot(backbone.decode, [backbone.parts["vae"]])
        return self.writer.graph("decoder", root, plain({"latents": self.latents()}))

    def light(self, location: str) -> dict[str, Any]:
        """Write the light decoder at ``location``."""
        decode: Any = self.net.backbone.light_decoder(location)  # type: ignore[attr-defined]
        root = CallRoot(decode, modules_of(decode))
        return self.writer.graph("light", root, plain({"latents": self.latents()}))

    def control(self) -> dict[str, Any]:
        """Write the network of the one control branch."""
        (edit,) = self.net.fusion.of(BranchEdit)
        kinds, _ = self.kinds()
        network, given = called(edit, kinds["latents"], kinds["time"], self.cond(kinds))
        latents, time, text, image = given
        kinds = {"latents": latents, "time": time, "text": text, "image": torch.rand_like(image)}
        arguments = plain(kinds, {"image": image.shape[-2] / latents.shape[-2]})
        return self.writer.graph(
            "control",
            ControlRoot(network),
            arguments,
            edits=(edit,),
            channels=image.shape[1],
            tensors={k: list(v.shape) for k, v in network.state_dict().items()},
        )

    def streams(self) -> dict[str, Any]:
        """Write each projector whose tensors no subject changes: ``stream/<name>``.

        In fp32 always: it runs once per subject, and ONNX Runtime's CPU crashes on a resampler in fp16.
        """
        graphs: dict[str, Any] = {}
        for edit in self.net.fusion.of(StreamEdit):
            names = {f"{edit.owner}/{edit.name}/{key}" for key in edit.owned()}
            if names and names <= set(self.writer.baked):
                shapes = [self.features[name].shape[1:] for name in edit.reads]
                # twice one reference's: an axis of one would be closed, and others are tried as well
                rows = [
                    self.writer.random(2, *(2 * n for n in shape[:-1]), shape[-1])
                    for shape in shapes
                ]
                kinds = {f"feature/{i}": value for i, value in enumerate(rows)}
                graphs |= self.writer.graph(
                    f"stream/{edit.name}", StreamRoot(edit), plain(kinds), edits=(edit,), full=True
                )
        return graphs

    def encoders(self, used: Mapping[str, tuple[Any, Mapping[str, Tensor]]]) -> dict[str, Any]:
        """Write each method of each feature model that a reference is encoded with."""
        graphs: dict[str, Any] = {}
        for id, (model, calls) in used.items():
            for method, images in calls.items():
                rows = torch.rand(2, *images.shape[1:], generator=self.writer.rng)
                root = CallRoot(getattr(model, method), modules_of(model))
                name = f"encoder/{id}/{method}"
                with resized_by_products():
                    graphs |= self.writer.graph(
                        name, root, plain({"image": rows}), resized=False, model=id, method=method
                    )
        return graphs

    def ids(self) -> Tensor:
        """Return two rows of ids."""
        backbone = self.net.backbone
        words = ["a photo of a dog on the beach", "a red car"]
        return tokenise(words, backbone.tokenizer).ids

    def latents(self) -> Tensor:
        """Return two rows of noise."""
        return self.writer.random(2, *self.net.backbone.latent_shape)

    def kinds(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return examples of what the denoiser is told, and their grids."""
        net, backbone = self.net, self.net.backbone
        text, pooled = backbone.encode_ids(self.ids())
        kinds: dict[str, Tensor] = {
            "latents": self.latents(),
            "time": torch.tensor([900.0, 100.0]),
            "text": text,
        }
        if pooled is not None:
            kinds["pooled"] = pooled
        subject = torch.zeros(2, dtype=torch.long)
        for name, stream in net.streams(net.read_features(self.features, subject)).items():
            kinds[f"stream/{name}"] = self.writer.random(*stream.shape)
        for name in net.fusion.strengths:
            kinds[f"strength/{name}"] = torch.tensor([1.0, 0.4])
        return kinds, {}

    def cond(self, kinds: Mapping[str, Tensor]) -> Conditioning:
        """Return them as a conditioning, with the points a layout may give."""
        arguments = plain(kinds)
        cond = conditioning(arguments, [a.example for a in arguments])[0]
        points = torch.rand(2, POINTS, 2, generator=self.writer.rng)
        return cond.with_(extra={**cond.extra, "points": points})

    def edits(self, part: str) -> list[Edit]:
        """Return the edits inside ``part`` that act in sampling."""
        return [edit for edit in self.net.fusion.inside(part) if edit.mode != "fit"]
