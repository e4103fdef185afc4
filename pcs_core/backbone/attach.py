"""Attaching a fusion to a backbone, reversibly, and evaluating the result."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pcs_core.backbone.attention import AttentionChain
from pcs_core.backbone.context import Context, Restore
from pcs_core.backbone.layers import Swap, bind_layer
from pcs_core.backbone.tokens import BoundEmbedding, TokenisedPrompts
from pcs_core.data import Evaluation, Fusion, Level, Site

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.protocol import Backbone
    from pcs_core.data import Conditioning, Edit

SHORTHANDS = {
    "attention": ("self", "cross", "joint", "temporal"),
    "cross": ("cross",),
    "self": ("self",),
}


def select_sites(
    sites: Sequence[Site], glob: str, *, kind: str = "*", part: str = "denoiser"
) -> tuple[Site, ...]:
    """Return the sites of ``part`` whose name matches ``glob`` and kind matches ``kind``.

    ``glob`` may be "attention", "cross" or "self": all attention sites of that kind. Several globs
    are joined by ``|``. A ``/regex/`` is matched against the whole name.
    """
    if glob in SHORTHANDS:
        kinds = SHORTHANDS[glob]
        return tuple(s for s in sites if s.part == part and s.kind in kinds)
    if len(glob) > 1 and glob.startswith("/") and glob.endswith("/"):
        pattern = re.compile(glob[1:-1])
        matches: Callable[[str], bool] = lambda name: pattern.fullmatch(name) is not None  # noqa: E731
    else:
        globs = glob.split("|")
        matches = lambda name: any(fnmatchcase(name, g) for g in globs)  # noqa: E731
    return tuple(s for s in sites if s.part == part and (kind in ("*", s.kind)) and matches(s.name))


class Attachment:
    """A fusion in a backbone. Use as a context manager; leaving restores the network exactly."""

    def __init__(self, backbone: Backbone, fusion: Fusion, *, fitting: bool = False) -> None:
        self.backbone, self.fusion = backbone, fusion
        self.context = Context(fitting=fitting)
        self._undo: list[Callable[[], None]] = []
        self._swaps: list[Swap] = []

    def __enter__(self) -> Attachment:
        try:
            self._bind()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the network: last bound, first undone."""
        while self._undo:
            self._undo.pop()()
        self._swaps.clear()

    def _bind(self) -> None:
        backbone, fusion, context = self.backbone, self.fusion, self.context
        for edit in fusion.edits():
            edit.to(backbone.device)
        # resolve every module on the bare network: an injection moves layers to other names
        layers: dict[str, tuple[nn.Module, list[Edit]]] = {}
        for layered in (*fusion.layers, *fusion.weights):
            site: Any = layered.site
            module = backbone.parts[site.part].get_submodule(site.name)
            layers.setdefault(str(site), (module, []))[1].append(layered)
        swaps = [Swap(backbone.parts[swap.part], dict(swap.targets())) for swap in fusion.swaps]
        for module, edits in layers.values():
            self._undo.append(bind_layer(module, edits, context))
        by_site: dict[str, list[Any]] = {}
        for attn in fusion.attention:
            by_site.setdefault(attn.site.name, []).append(attn)
        chains = {
            site.name: AttentionChain(site, by_site.get(site.name, ()), context)
            for site in backbone.sites
            if site.part == "denoiser" and site.kind in SHORTHANDS["attention"]
        }
        self._undo.append(backbone.bind_attention(chains))
        if fusion.tokens:
            table = backbone.embedding
            before = vars(table).get("forward")
            object.__setattr__(table, "forward", BoundEmbedding(table, fusion.tokens, context))
            self._undo.append(
                (lambda: object.__delattr__(table, "forward"))
                if before is None
                else (lambda: object.__setattr__(table, "forward", before))
            )
        for swap in swaps:
            swap.put(True)
            self._swaps.append(swap)
            self._undo.append(lambda swap=swap: swap.put(False))  # type: ignore[misc]
        for injection in fusion.injections:
            root = backbone.parts[injection.part]
            injection.inject(root)
            self._undo.append(lambda e=injection, r=root: e.eject(r))  # type: ignore[misc]
        for injection in fusion.injections:
            injection.settle()

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base network, for the duration: edits skipped, swaps back, injections disabled."""
        if self.context.off:
            yield
            return
        self.context.off = True
        for swap in self._swaps:
            swap.put(False)
        for injection in self.fusion.injections:
            injection.active(False)
        try:
            yield
        finally:
            self.context.off = False
            for swap in self._swaps:
                swap.put(True)
            for injection in self.fusion.injections:
                injection.active(True)

    def encode_text(
        self, prompts: TokenisedPrompts, subject: Tensor | None = None, *, model: str = "self"
    ) -> tuple[Tensor, Tensor | None]:
        """Return text [b l d] and pooled [b d] of tokenised prompts, rows of ``subject`` [b]."""
        device = self.backbone.device
        spans = {k: v.to(device) for k, v in prompts.spans.items()}
        subject = None if subject is None else subject.to(device)
        state = {"spans": spans, "subject": subject}
        with Restore(self.context, state), self.off() if model == "base" else nullcontext():
            text, pooled = self.backbone.encode_ids(prompts.ids.to(device))
            if not self.context.off:
                for i, edit in enumerate(self.fusion.tokens):
                    if edit.stage() == "output" and self.context.acts(edit):
                        text = edit.output(text, spans[str(i)], subject)
        return text, pooled

    def evaluate(
        self,
        latents: Tensor,
        level: Level,
        cond: Conditioning,
        *,
        model: str = "self",
        edits: str = "*",
        record: Sequence[str] = (),
        progress: float = 0.0,
    ) -> Evaluation:
        """Run the network once on latents [b c h w] at ``level``, in the caller's grad mode.

        ``model`` is "self" or "base" (edits off); ``edits`` a glob over uses; ``record`` globs or
        kinds of attention sites whose maps are returned on the tape.
        """
        if model not in ("self", "base"):
            raise ValueError(f"unknown model {model!r}: 'self' or 'base'")
        state = {
            "cond": cond,
            "edits": edits,
            "record": tuple(record),
            "tape": {},
            "progress": progress,
            "subject": cond.subject,
        }
        with Restore(self.context, state), self.off() if model == "base" else nullcontext():
            output = self.backbone.denoise(latents, level.time, cond)
            tape = self.context.tape
        x0 = self.backbone.process.denoised(output, latents, level)
        return Evaluation(x0=x0, output=output, tape=tape)

    def use_checkpointing(self) -> None:
        """Recompute activations in backward, each under the context of its own forward."""

        def function(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = self.context.state()
            return checkpoint(
                fn,
                *args,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), Restore(self.context, state)),
                **kwargs,
            )

        self.backbone.checkpointing(function)
        self._undo.append(lambda: self.backbone.checkpointing(None))

    def pixels(self, images: Tensor, stage: str) -> Tensor:
        """Apply the pixel edits of ``stage`` ("input" or "decoded") to images [n 3 h w]."""
        for edit in self.fusion.pixels:
            if edit.stage() == stage and self.context.acts(edit):
                images = getattr(edit, stage)(images)
        return images


def trainable(fusion: Fusion) -> dict[str, nn.Parameter]:
    """Return the parameters by ``"<use>/<site or token>/<param>"``.

    Raises
    ------
    ConflictError
        Two edits of one use own a parameter of the same name.
    """
    from pcs_core.errors import ConflictError

    found: dict[str, nn.Parameter] = {}
    for edit in fusion.edits():
        for key, tensor in edit.owned().items():
            if isinstance(tensor, nn.Parameter):
                name = f"{edit.owner}/{edit.key(0)}/{key}"
                if name in found:
                    raise ConflictError(
                        f"two edits of {edit.owner!r} own {name!r}: name their sites"
                    )
                found[name] = tensor
    return found


def export_tensors(fusion: Fusion, subject: int = 0) -> dict[str, Tensor]:
    """Return what an artifact of ``subject`` stores, by name, detached, on the CPU.

    A stacked parameter gives its subject's slice; a swapped one the difference W' - W0.
    """
    from pcs_core.data import SwapEdit

    tensors: dict[str, Tensor] = {}
    for edit in fusion.edits():
        for key, tensor in edit.owned().items():
            value = tensor.detach()
            if isinstance(edit, SwapEdit):
                value = value.float() - edit.base[key].detach().float()
            elif edit.stacked:
                value = value[subject]
            tensors[f"{edit.owner}/{edit.key(subject)}/{key}"] = value.clone().contiguous().cpu()
    return tensors


@torch.no_grad()
def import_tensors(fusion: Fusion, tensors: dict[str, Tensor]) -> None:
    """Load what :func:`export_tensors` gave into the edits of a one-subject fusion.

    Raises
    ------
    ArtifactError
        A tensor is missing, left over, or has another shape.
    """
    from pcs_core.data import SwapEdit
    from pcs_core.errors import ArtifactError

    left = dict(tensors)
    for edit in fusion.edits():
        for key, tensor in edit.owned().items():
            name = f"{edit.owner}/{edit.key(0)}/{key}"
            if name not in left:
                raise ArtifactError(f"the artifact lacks {name!r}, which its recipe needs")
            value = left.pop(name).to(tensor.device)
            if isinstance(edit, SwapEdit):
                value = value + edit.base[key].detach().float()
            elif edit.stacked:
                value = value.unsqueeze(0)
            if value.shape != tensor.shape:
                raise ArtifactError(
                    f"{name!r} has shape {tuple(value.shape)}, its recipe builds {tuple(tensor.shape)}"
                )
            tensor.copy_(value)
    if left:
        raise ArtifactError(
            f"the artifact holds {sorted(left)[0]!r}, which its recipe does not build"
        )
