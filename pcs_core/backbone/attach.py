"""Attaching a fusion to a backbone, reversibly, and evaluating the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.checkpoint import checkpoint

from pcs_core.backbone.attention import AttentionChain
from pcs_core.backbone.context import Context, Restore
from pcs_core.backbone.layers import bind_layer
from pcs_core.backbone.sites import SHORTHANDS
from pcs_core.backbone.swap import Swap
from pcs_core.backbone.tensors import trainable
from pcs_core.backbone.tokens import BoundEmbedding, TokenisedPrompts
from pcs_core.data import Conditioning, Evaluation, Fusion, Level

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.protocol import Backbone
    from pcs_core.data import Edit

_ATTACHED: WeakKeyDictionary[Any, Attachment] = WeakKeyDictionary()
"""The attachment in force on a backbone."""


@contextmanager
def suspended(backbone: Backbone) -> Iterator[None]:
    """The bare network, for the duration: what is attached comes off and goes back on after.

    A picture drawn while a fit is under way must not be drawn with the fit's edits.
    """
    outer = _ATTACHED.pop(backbone, None)
    if outer is None:
        yield
        return
    resume = outer.suspend()
    try:
        yield
    finally:
        if outer.open:
            resume()
            _ATTACHED[backbone] = outer


class Attachment:
    """A fusion in a backbone. Use as a context manager; leaving restores the network exactly.

    A backbone holds one at a time: an attachment made inside another suspends the outer one.
    """

    def __init__(self, backbone: Backbone, fusion: Fusion, *, fitting: bool = False) -> None:
        self.backbone, self.fusion = backbone, fusion
        self.context = Context(fitting=fitting)
        self.open = False
        self._undo: list[Callable[[], None]] = []
        self._switches: list[tuple[Edit, Callable[[bool], None]]] = []
        self._on: dict[Edit, bool] = {}
        self._checkpointed = False
        self._outside = ExitStack()

    def __enter__(self) -> Attachment:
        self._outside.enter_context(suspended(self.backbone))
        self.open = True
        _ATTACHED[self.backbone] = self
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
        self._unbind()
        self.open = False
        if _ATTACHED.get(self.backbone) is self:
            del _ATTACHED[self.backbone]
        self._outside.close()

    def suspend(self) -> Callable[[], None]:
        """Take everything off; return what puts it back, ``requires_grad`` included."""
        flags = [(p, p.requires_grad) for p in trainable(self.fusion).values()]
        self._unbind()

        def resume() -> None:
            self._bind()
            for param, flag in flags:
                param.requires_grad_(flag)
            if self._checkpointed:
                self.use_checkpointing()

        return resume

    def _unbind(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._switches.clear()
        self._on.clear()

    def _bind(self) -> None:
        backbone, fusion, context = self.backbone, self.fusion, self.context
        for edit in fusion.edits():
            edit.to(backbone.device)
        # paths of parameters are those of the bare network: an injection moves them
        swaps = [Swap(backbone.parts[swap.part], dict(swap.targets())) for swap in fusion.swaps]
        for edit, swap in zip(fusion.swaps, swaps, strict=True):
            swap.put(True)
            self._undo.append(lambda swap=swap: swap.put(False))  # type: ignore[misc]
            self._switches.append((edit, swap.put))
        for injection in fusion.injections:
            root = backbone.parts[injection.part]
            self._undo.append(lambda e=injection, r=root: e.eject(r))  # type: ignore[misc]
            injection.inject(root)
            self._switches.append((injection, injection.active))
        for injection in fusion.injections:
            injection.settle()
        # an injected layer stands where the layer was: edits bound inside it, some kinds never call
        layers: dict[str, tuple[nn.Module, list[Edit]]] = {}
        for layered in (*fusion.layers, *fusion.weights):
            site: Any = layered.site
            module = backbone.parts[site.part].get_submodule(site.name)
            layers.setdefault(str(site), (module, []))[1].append(layered)
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

    @contextmanager
    def _under(self, state: Mapping[str, Any]) -> Iterator[None]:
        """Put ``state`` in force, for the duration: the context, and which swaps and injections act."""
        try:
            with Restore(self.context, state):
                self._switch()
                yield
        finally:
            self._switch()

    def _switch(self) -> None:
        for edit, put in self._switches:
            on = not self.context.off and self.context.acts(edit)
            if self._on.get(edit, True) != on:
                put(on)
                self._on[edit] = on

    def encode_text(
        self,
        prompts: TokenisedPrompts,
        subject: Tensor | None = None,
        *,
        model: str = "self",
        edits: str = "*",
    ) -> tuple[Tensor, Tensor | None]:
        """Return text [b l d] and pooled [b d] of tokenised prompts, rows of ``subject`` [b].

        ``model`` and ``edits`` as in :meth:`evaluate`.
        """
        device = self.backbone.device
        ids = prompts.ids.to(device)
        spans = {k: v.to(device) for k, v in prompts.spans.items()}
        subject = None if subject is None else subject.to(device)
        state = {
            "spans": spans,
            "subject": subject,
            # layers of the text encoder need the rows' subjects; the text itself is not there yet
            "cond": Conditioning(text=ids, subject=subject),
            "off": self._is_base(model),
            "edits": edits,
        }
        with self._under(state):
            text, pooled = self.backbone.encode_ids(ids)
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
        state = {
            "cond": cond,
            "off": self._is_base(model),
            "edits": edits,
            "record": tuple(record),
            "tape": {},
            "progress": progress,
            "subject": cond.subject,
        }
        with self._under(state):
            output = self.backbone.denoise(latents, level.time, cond)
            tape = self.context.tape
        x0 = self.backbone.process.denoised(output, latents, level)
        return Evaluation(x0=x0, output=output, tape=tape)

    def _is_base(self, model: str) -> bool:
        if model not in ("self", "base"):
            raise ValueError(f"unknown model {model!r}: 'self' or 'base'")
        return model == "base"

    def use_checkpointing(self) -> None:
        """Recompute activations in backward, each under the context of its own forward."""

        def function(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            state = self.context.state()
            return checkpoint(
                fn,
                *args,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), self._under(state)),
                **kwargs,
            )

        self._checkpointed = True
        self.backbone.checkpointing(function)
        self._undo.append(lambda: self.backbone.checkpointing(None))

    def pixels(self, images: Tensor, stage: str) -> Tensor:
        """Apply the pixel edits of ``stage`` ("input" or "decoded") to images [n 3 h w]."""
        for edit in self.fusion.pixels:
            if edit.stage() == stage and self.context.acts(edit):
                images = getattr(edit, stage)(images)
        return images
