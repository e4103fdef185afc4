"""Attaching a fusion to a backbone, reversibly, and evaluating the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.checkpoint import checkpoint

from pcs_core.backbone.blame import edit_failure
from pcs_core.backbone.context import Context, Restore
from pcs_core.backbone.known_texts import KnownTexts
from pcs_core.backbone.sites import select_sites
from pcs_core.backbone.tensors import trainable
from pcs_core.backbone.tokens import TokenisedPrompts
from pcs_core.backbone.weighed import weigh
from pcs_core.data import READINGS, Conditioning, Evaluation, Fusion, Level
from pcs_core.edits import AttnEdit, BranchEdit, Edit, PixelEdit, StreamEdit, TokenEdit

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.backbone.protocol import Backbone

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


def attached(backbone: Backbone) -> Attachment | None:
    """Return the attachment in force on ``backbone``."""
    return _ATTACHED.get(backbone)


class Attachment:
    """A fusion in a backbone. Use as a context manager; leaving restores the network exactly.

    A backbone holds one at a time: an attachment made inside another suspends the outer one.
    """

    def __init__(self, backbone: Backbone, fusion: Fusion, *, fitting: bool = False) -> None:
        self.backbone, self.fusion = backbone, fusion
        self.context = Context(fitting=fitting)
        self.known_texts = KnownTexts()
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
        if context.fitting:  # before the edits: they act on what is looked up, too
            self.known_texts.bind(backbone, self.undo)
        # attention is chained even without edits: its maps can be read
        kinds: dict[type[Edit], list[Edit]] = {AttnEdit: []}
        for edit in fusion.edits:
            edit.to(backbone.device)
            edit.train(context.fitting)  # dropout and running means belong to fits
            kinds.setdefault(edit.binder(), []).append(edit)
        for kind in sorted(kinds, key=lambda k: k.BOUND):
            kind.bind(kinds[kind], self)
        bind_fusion = getattr(backbone, "bind_fusion", None)
        if bind_fusion is not None:  # a deployment, whose networks take edits' tensors as inputs
            self.undo(bind_fusion(fusion, context))

    def undo(self, function: Callable[[], None]) -> None:
        """Remember what gives back a change of the network: the last one is undone first."""
        self._undo.append(function)

    def switch(self, edit: Edit, put: Callable[[bool], None]) -> None:
        """Let ``put`` be called with whether ``edit`` acts, where that changes from call to call."""
        self._switches.append((edit, put))

    @property
    def layers(self) -> int:
        """Number of cross-attention sites of the denoiser."""
        return len(select_sites(self.backbone.sites, "cross"))

    @contextmanager
    def _under(self, state: Mapping[str, Any]) -> Iterator[None]:
        """Put ``state`` in force, for the duration: the context, and which swaps and injections act."""
        try:
            with Restore(self.context, state):
                self._switch()
                yield
        except Exception as error:
            if (named := edit_failure(error)) is not None:
                raise named from error
            raise
        finally:
            self._switch()

    def _switch(self) -> None:
        for edit, put in self._switches:
            on = not self.context.off and self.context.acts(edit)
            if self._on.get(edit, True) != on:
                put(on)
                self._on[edit] = on

    # long: the arguments of a text and what they mean
    def encode_text(
        self,
        prompts: TokenisedPrompts,
        subject: Tensor | None = None,
        *,
        time: Tensor | None = None,
        streams: Mapping[str, Tensor] | None = None,
        extra: Mapping[str, Tensor] | None = None,
        model: str = "self",
        edits: str = "*",
        progress: float = 0.0,
    ) -> Conditioning:
        """Return the conditioning of tokenised prompts, rows of ``subject`` [b] at level ``time`` [b].

        ``streams`` as in :meth:`streams`, ``extra`` strengths and the like; ``model``, ``edits`` and
        ``progress`` as in :meth:`evaluate`. With an edit of stage "layer" the text is encoded once per
        cross-attention site, in one batch per site.
        """
        device = self.backbone.device
        said = {
            str(i)
            for i, e in enumerate(self.fusion.of(TokenEdit))
            if e.readings > 1 and bool((prompts.spans[str(i)] >= 0).any())
        }
        prompts = prompts.to(device)
        subject = None if subject is None else subject.to(device)
        cond = Conditioning(
            text=prompts.ids,
            subject=subject,
            spans=prompts.spans,
            time=time,
            streams=dict(streams or {}),
            extra=dict(extra or {}),
        )
        state = {
            "spans": prompts.spans,
            "subject": subject,
            # layers of the text encoder need the rows' subjects; the text itself is not there yet
            "cond": cond,
            "off": self._is_base(model),
            "edits": edits,
            "progress": progress,
        }
        with self._under(state):
            acting = [
                (str(i), e)
                for i, e in enumerate(self.fusion.of(TokenEdit))
                if not self.context.off and self.context.acts(e)
            ]
            layers = self.layers if any(e.stage() == "layer" for _, e in acting) else 1
            texts: list[Tensor] = []
            pooled: Tensor | None = None
            for layer in range(layers):
                self.context.layer, self.context.layers = layer, layers
                text, pooled, readings = self._read(
                    prompts, cond, [e for k, e in acting if k in said]
                )
                for key, edit in acting:
                    if edit.stage() == "output":
                        text = edit.output(text, prompts.spans[key], cond)
                texts.append(weigh(self, prompts, text))
            self.context.layer, self.context.layers = 0, 1
            names = {edit.untuned for _, edit in acting if edit.untuned}
            untuned = {name: self._untuned(state, name, prompts) for name in sorted(names)}
        if untuned or readings:
            cond = cond.with_(extra={**cond.extra, **untuned, **readings})
        layered = torch.stack(texts, dim=1) if layers > 1 else None
        return cond.with_(text=texts[-1], layered=layered, pooled=pooled)

    def _read(
        self, prompts: TokenisedPrompts, cond: Conditioning, several: Sequence[TokenEdit]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Return text and pooled state, and in a fit all readings where edits want ``several``."""
        if not several:
            return (*self.backbone.encode_ids(prompts.ids), {})
        texts, pools = [], []
        for self.context.reading in range(max(e.readings for e in several)):
            text, pooled = self.backbone.encode_ids(prompts.ids)
            texts.append(text)
            pools += [] if pooled is None else [pooled]
        self.context.reading = 0
        said, join = torch.stack(texts, dim=1), several[0].joined
        pooled = join(torch.stack(pools, dim=1), cond) if pools else None
        return join(said, cond), pooled, {READINGS: said} if self.context.fitting else {}

    @torch.no_grad()
    def _untuned(self, state: Mapping[str, Any], name: str, prompts: TokenisedPrompts) -> Tensor:
        """Return what the base makes of ``prompts``, the rows of token edits that ask for ``name`` in place."""
        with self._under({**state, "off": True, "instead": name}):
            return weigh(self, prompts, self.backbone.encode_ids(prompts.ids)[0])

    @contextmanager
    def under(self, **state: Any) -> Iterator[None]:
        """Put parts of the context in force (``edits``, ``progress``), for the duration."""
        with self._under(state):
            yield

    def read_features(self, features: Mapping[str, Tensor], subject: Tensor) -> dict[str, Tensor]:
        """Return what the streams read, a row per entry of ``subject`` [b], from stacks [S ...]."""
        names = {name for edit in self.fusion.of(StreamEdit) for name in edit.reads}
        device = self.backbone.device
        rows = {}
        for name in names:
            stacked = features[name].to(device)
            one = stacked.shape[0] == 1
            rows[name] = (
                stacked.expand(len(subject), *stacked.shape[1:]) if one else stacked[subject]
            )
        return rows

    def streams(
        self, features: Mapping[str, Tensor], drop: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Return the streams [b n d] by name, inside autograd, from features with a row each.

        A stream whose name matches a glob in ``drop`` reads zeros.
        """
        streams = {}
        for edit in self.fusion.of(StreamEdit):
            if self.context.off or not self.context.acts(edit):
                continue
            read = [features[name] for name in edit.reads]
            if not edit.in_every_branch and any(fnmatchcase(edit.name, glob) for glob in drop):
                read = [torch.zeros_like(t) for t in read]
            streams[edit.name] = edit.stream(*read)
        return streams

    def acting_on_text(self, edits: str, progress: float) -> tuple[bool, ...]:
        """Return which edits of the text act: where this changes, the text must be encoded again."""
        shaping = [edit for edit in self.fusion.edits if edit.shapes_conditioning()]
        with self.under(edits=edits, progress=progress):
            return tuple(self.context.acts(edit) for edit in shaping)

    def acting(self, progress: float) -> tuple[bool, ...]:
        """Return of each edit of the fusion whether it acts at ``progress``."""
        with Restore(self.context, {"progress": progress}):
            return tuple(self.context.acts(edit) for edit in self.fusion.edits)

    def strengths(self, rows: int, given: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Return the strengths [rows] by name, those ``given`` in place of the fusion's own."""
        values = {**self.fusion.strengths, **(given or {})}
        return {
            k: torch.full((rows,), float(v), device=self.backbone.device) for k, v in values.items()
        }

    def latents(self, images: Tensor, index: Sequence[int], edits: str = "*") -> Tensor:
        """Return mean latents of images [n 3 h w] with the pixel edits before the VAE in force."""
        with self.under(edits=edits):
            rows = torch.tensor(list(index), device=images.device)
            return self.backbone.moments(self.pixels(images, "input", rows))[0]

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
            "size": tuple(latents.shape[2:]),
        }
        with self._under(state):
            output = self.backbone.denoise(
                latents, level.time, cond, **self._control(latents, level, cond)
            )
            tape = self.context.tape
        x0 = self.backbone.process.denoised(output, latents, level)
        return Evaluation(x0=x0, output=output, tape=tape)

    def _control(self, latents: Tensor, level: Level, cond: Conditioning) -> dict[str, Any]:
        """Return the sum of the residuals of all control branches that act."""
        total: tuple[list[Tensor], Tensor] | None = None
        for edit in self.fusion.of(BranchEdit):
            if self.context.off or not self.context.acts(edit):
                continue
            answer = edit.residuals(latents, level.time, cond)
            if answer is None:
                continue
            down, middle = answer
            if total is None:
                total = (list(down), middle)
            else:
                total = ([a + b for a, b in zip(total[0], down, strict=True)], total[1] + middle)
        return {} if total is None else {"residuals": total}

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

    def pixels(self, images: Tensor, stage: str, index: Tensor | None = None) -> Tensor:
        """Apply the pixel edits of ``stage`` ("input" or "decoded") to images [n 3 h w].

        ``index`` [n] is the reference each picture is (-1: none); stage "input" needs it.
        """
        for edit in self.fusion.of(PixelEdit):
            if edit.stage() == stage and self.context.acts(edit):
                more = () if index is None else (index,)
                images = getattr(edit, stage)(images, *more)
        return images

    @property
    def encodes_each_step(self) -> bool:
        """True when an edit changes what is encoded: latents of examples are no constants."""
        return any(edit.changes_latents() for edit in self.fusion.edits)
