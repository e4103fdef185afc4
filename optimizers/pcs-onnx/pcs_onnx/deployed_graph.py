"""One graph of a deployment: its session, what it takes, and the edits whose tensors it takes now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pcs_core.errors import CapabilityError
from pcs_onnx.edits import constants, digest, identity, input_name, padded, tensors
from pcs_onnx.refusals import across_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from pcs_core.backbone import Context
    from pcs_core.data import Edit
    from pcs_onnx.openvino_session import OpenVinoSession
    from pcs_onnx.sessions import Session

REMEMBERED = 16
"""Results kept of a graph that says the same for the same inputs in every step."""


class DeployedGraph:
    """Feeds the tensors of the edits in force. The session opens with the first call.

    ``remembers`` keeps the last results: what depends on a subject or a prompt alone runs once.
    ``asked`` counts calls, answered from memory or not.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        facts: Mapping[str, Any],
        start: Callable[..., Session | OpenVinoSession],
        *,
        remembers: bool = False,
    ) -> None:
        self.name, self.folder, self.facts = name, folder, facts
        self.inputs: list[dict[str, Any]] = facts["inputs"]
        self.edits: list[Edit] = []
        self.asked = 0
        self._start = start
        self._session: Session | OpenVinoSession | None = None
        self._kept: list[tuple[list[Tensor], list[Tensor]]] | None = [] if remembers else None

    @property
    def session(self) -> Any:
        """The session, opened when first asked for."""
        if self._session is None:
            self._session = self._start(self.folder / self.facts["file"], rows=self.facts["rows"])
        return self._session

    @session.setter
    def session(self, session: Any) -> None:
        self._session = session

    @property
    def providers(self) -> list[str] | None:
        """What runs it; None before the first call."""
        return None if self._session is None else list(self._session.providers)

    def bind(self, edits: Sequence[Edit]) -> None:
        """Take the edits of an attachment; refuse those that the graph does not know."""
        mine = [e for e in edits if e.mode != "fit"]
        for edit in mine:
            if edit.ACROSS_STEPS:
                raise CapabilityError(f"{self.folder}: {across_steps(edit)}")
        if (why := self.unlike(mine)) is not None:
            raise self.other(why)
        self.edits = mine

    def unlike(self, edits: Sequence[Edit]) -> str | None:
        """Return why the graph does not fit ``edits``, or None."""
        known = self.facts["edits"]
        for edit in edits:
            name, current = identity(edit), constants(edit)
            if name not in known:
                return f"it knows no {name!r}"
            if current != known[name]:
                key = next(
                    k for k in {**current, **known[name]} if current.get(k) != known[name].get(k)
                )
                return (
                    f"{name!r} has {key} = {current.get(key)!r}, the graph {known[name].get(key)!r}"
                )
        if edits and len(edits) < len(known):
            missing = set(known) - {identity(e) for e in edits}
            return f"the artifact has no {min(missing)!r}"
        if edits and digest(edits, self.facts["baked"]) != self.facts["baked_sha256"]:
            return "the artifact builds on other pre-trained weights"
        return None

    def __call__(self, given: Mapping[str, Tensor], context: Context | None) -> list[Tensor]:
        """Run the graph with ``given`` and the tensors of the edits in force."""
        acting = self.acting(context)
        edit_tensors = {
            input_name(e, path): value for e in acting for path, value in tensors(e).items()
        }
        first = next(iter(given.values()))
        batched, constant = [], []
        for entry in self.inputs:
            kind, name = entry["kind"], entry["name"]
            if kind == "tensor":
                constant.append(self.tensor(entry, edit_tensors) if acting else _zeros(entry, None))
            elif name in given and (acting or kind not in ("stream", "strength")):
                batched.append(given[name].to(getattr(torch, entry["dtype"])))
            elif kind == "residual" or (not acting and kind in ("stream", "strength")):
                batched.append(_zeros(entry, first))
            else:
                raise self.other(f"it needs the input {name!r}")
        return self.run(batched, constant)

    def run(self, batched: list[Tensor], constant: list[Tensor]) -> list[Tensor]:
        """Run the session, or give again what it gave for equal inputs."""
        self.asked += 1
        if self._kept is None:
            return self.session(batched, constant)  # type: ignore[no-any-return]
        values = [*batched, *constant]
        for index in reversed(range(len(self._kept))):  # the last used first: every step asks again
            before, outputs = self._kept[index]
            if all(
                a.shape == b.shape and torch.equal(a, b)
                for a, b in zip(before, values, strict=True)
            ):
                self._kept.append(self._kept.pop(index))
                return [t.clone() for t in outputs]
        outputs = self.session(batched, constant)
        # copies: an artifact's tensors may be trained on, and a caller may write into results
        self._kept.append(([v.detach().clone() for v in values], [t.clone() for t in outputs]))
        del self._kept[:-REMEMBERED]
        return outputs  # type: ignore[no-any-return]

    def acting(self, context: Context | None) -> list[Edit]:
        """Return the edits in force: all, or none.

        Raises
        ------
        CapabilityError
            Some are and some are not, or the graph has no form without them.
        """
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
        return acting

    def tensor(self, entry: Mapping[str, Any], edit_tensors: Mapping[str, Tensor]) -> Tensor:
        """Return what is fed as the input ``entry``, filled up with zeros to its shape."""
        name, shape = entry["name"], tuple(entry["shape"])
        if name not in edit_tensors:
            raise self.other(f"it needs {name!r}, which the artifact has not")
        value = padded(edit_tensors[name].float(), shape, entry["padded_axis"])
        if value is None:
            raise self.other(
                f"{name!r} has shape {tuple(edit_tensors[name].shape)}, the graph takes {shape}"
            )
        return value.to(getattr(torch, entry["dtype"]))

    def other(self, why: str) -> CapabilityError:
        """Return the error of a graph that was exported for something else."""
        return CapabilityError(
            f"{self.folder}: the {self.name}'s graph does not fit this artifact: {why}. Export its "
            "system again with `pcs export`"
        )


def _zeros(entry: Mapping[str, Any], like: Tensor | None) -> Tensor:
    """Return zeros for an input; with the rows of ``like``, and a picture with its size."""
    shape = list(entry["shape"])
    kind = getattr(torch, entry["dtype"])
    if like is None:
        return torch.zeros(shape, dtype=kind)
    if entry.get("grid"):
        shape[1:] = [round(n * entry["grid"]) for n in like.shape[2:]]
    return torch.zeros((like.shape[0], *shape), dtype=kind)
