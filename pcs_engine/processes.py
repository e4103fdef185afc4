"""The processes that share one fit, one a device: what of a step each takes, and what they tell each other.

A launcher (`torchrun`, `accelerate launch`) starts them all with the same arguments and says in the
environment which is which. Every process draws the numbers of the whole step and computes its own share of
the rows: so the generators of all stay alike, and the gradient is that of one process.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from pcs_core.data import ALL, RENDERED, Phase, Use
from pcs_core.errors import CapabilityError, InputError, RecipeError
from pcs_engine.randomness import derive_seed

if TYPE_CHECKING:
    from torch import Tensor, nn

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others, as while the first looks at a checkpoint. The launcher ends
those that wait for one that failed."""

BUCKET = 1 << 24
"""Numbers that are sent together, at most, unless one tensor has more."""

_GIVEN: ContextVar[Processes | None] = ContextVar("given", default=None)


def place() -> tuple[int, int]:
    """Return the number of this process and how many the launcher started: (0, 1) without one.

    Raises
    ------
    InputError
        The environment speaks of several processes and does not say which this is.
    """
    given = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "")
    if given[0] == "1":
        return 0, 1
    try:
        return int(given[1]), int(given[0])
    except ValueError as error:
        raise InputError(
            f"the environment says WORLD_SIZE={given[0]!r} and RANK={given[1]!r}: start several processes "
            "with torchrun or `accelerate launch`, or unset WORLD_SIZE"
        ) from error


@contextmanager
def given(processes: Processes) -> Iterator[None]:
    """Let fits run by these, whatever a launcher started: by one, each process fits alike for itself."""
    token = _GIVEN.set(processes)
    try:
        yield
    finally:
        _GIVEN.reset(token)


@dataclass(frozen=True, slots=True)
class Processes:
    """``count`` processes that train together; this is number ``index`` and computes on ``device``."""

    index: int = 0
    count: int = 1
    device: torch.device | str = "cpu"

    def takes(self, phase: Phase, part: int) -> bool:
        """Return whether some rows of this one of the ``accumulate`` parts of a step are computed here."""
        return shared(phase, self.count) == "rows" or part % self.count == self.index

    def rows(self, phase: Phase, subjects: int) -> list[int] | None:
        """Return the places of this process's rows in a part with ``subjects`` subjects; None is all.

        They are an equal share of each role of each subject, so that a mean over the rows of a role is
        the mean of the processes' means.
        """
        if self.count == 1 or shared(phase, self.count) == "parts":
            return None
        places: list[int] = []
        start = 0
        for count in [n for _ in range(subjects) for n in phase.batch.values() if n]:
            each = count // self.count
            places += range(start + self.index * each, start + (self.index + 1) * each)
            start += count
        return places

    def share_gradients(self, phase: Phase, params: Iterable[nn.Parameter]) -> None:
        """Give all processes the gradient of the whole step.

        The loss of a part is divided by ``accumulate`` already: parts add up. Each process's share of the
        rows of a part has a mean of its own: the gradient is the mean of theirs.
        """
        if self.count == 1:
            return
        trained = list(params)
        reached = torch.tensor([p.grad is not None for p in trained], device=self.device).float()
        dist.all_reduce(reached, dist.ReduceOp.MAX)
        if any(
            p.grad is None for p in trained
        ):  # reading waits for the device: only where it matters
            for param, elsewhere in zip(trained, reached.tolist(), strict=True):
                if param.grad is None and elsewhere:
                    param.grad = torch.zeros_like(param)
        grads = [p.grad for p in trained if p.grad is not None]
        self._add(grads)
        if shared(phase, self.count) == "rows":
            for grad in grads:
                grad /= self.count

    def _add(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, the same bits in all of them."""
        for bucket in buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    @torch.no_grad()
    def equalise(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the first one's values: devices may round what a start is computed from."""
        if self.count == 1:
            return
        for tensor in tensors:
            if tensor.is_floating_point():
                sent = tensor.detach().to(self.device).contiguous()
                dist.broadcast(sent, 0)
                tensor.copy_(sent)

    def first(self, answer: Callable[[], Sequence[bool]], length: int) -> list[bool]:
        """Return what the first process answers, ``length`` truths; the others do not ask."""
        if self.count == 1:
            return list(answer())
        answers = list(answer()) if self.index == 0 else [False] * length
        sent = torch.tensor(answers, device=self.device).to(torch.uint8)
        dist.broadcast(sent, 0)
        return [bool(value) for value in sent.tolist()]

    def agree(self, facts: Mapping[str, object]) -> None:
        """Refuse to train together where these facts are not the same in all processes.

        Raises
        ------
        InputError
            In every process; names the facts that differ, and what they are here.
        """
        if self.count == 1:
            return
        digests = torch.tensor([derive_seed(0, repr(fact)) for fact in facts.values()])
        ends = torch.stack([digests, -digests]).to(self.device)
        dist.all_reduce(ends, dist.ReduceOp.MAX)
        most, least = ends[0].tolist(), (-ends[1]).tolist()
        other = [f"{n} (here {v!r})" for (n, v), a, b in zip(facts.items(), most, least) if a != b]
        if other:
            raise InputError(
                f"the {self.count} processes of this launch do not train the same: they differ in "
                f"{', '.join(other)}: give all the same arguments, and one work folder that all see"
            )


def join(device: torch.device) -> Processes:
    """Return the processes of this launch, after all of them have come here; one without a launcher."""
    joined, (index, count) = _GIVEN.get(), place()
    if joined is not None or count == 1:
        return joined or Processes()
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    return Processes(index, count, device)


def shared(phase: Phase, count: int) -> str:
    """Return what of a step ``count`` processes share out: its "parts", or the "rows" of each part.

    Raises
    ------
    RecipeError
        Neither its parts nor the rows of each role go evenly among them.
    """
    if phase.accumulate % count == 0:
        return "parts"
    rows = {role: n for role, n in phase.batch.items() if n}
    if not {RENDERED, ALL} & {*rows, *rows.values()} and not any(n % count for n in rows.values()):
        return "rows"
    raise _uneven(
        phase,
        count,
        "neither its accumulation steps nor the rows of each role divide evenly among them",
    )


def check_shared(phases: Iterable[Phase], uses: Iterable[Use], count: int) -> None:
    """Refuse phases that ``count`` processes cannot share out with the gradient of one process.

    Raises
    ------
    RecipeError
        As :func:`shared`; or rows must be shared out, and a use does not promise that each of its rows
        stands for itself (``rowwise`` of its technique).
    """
    uses = list(uses)
    for phase in phases:
        if phase.pretrain or not phase.steps or shared(phase, count) == "parts":
            continue
        for use in uses:
            acts = any(hasattr(use.technique, hook) for hook in ("fuse", "mask", "regularize"))
            if acts and not use.technique.rowwise:
                raise _uneven(
                    phase,
                    count,
                    f"its accumulation steps do not divide evenly, and the rows of the use {use.name!r} may "
                    f"depend on each other ({use.technique.id} does not say `rowwise`)",
                )


def _uneven(phase: Phase, count: int, why: str) -> RecipeError:
    counts = {role: "all" if n == ALL else n for role, n in phase.batch.items() if n}
    rows = ", ".join(f"{n} of {role!r}" for role, n in counts.items())
    now, parts = phase.accumulate, -(-phase.accumulate // count) * count
    return RecipeError(
        f"phase {phase.name!r} cannot be shared out over {count} processes: a step is {now} "
        f"part{'s' if now > 1 else ''} (accumulate) with rows {rows}, and {why}: "
        f"--set {phase.name}.accumulate={parts} makes it {parts} parts, or run one process"
    )


def buckets(tensors: Sequence[Tensor], limit: int = BUCKET) -> Iterator[list[Tensor]]:
    """Yield runs of tensors of one type with at most ``limit`` numbers, a larger tensor alone."""
    run: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.numel() for t in run) + tensor.numel() > limit
        if run and (full or tensor.dtype != run[0].dtype):
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


def one_process(*_: object) -> None:
    """Refuse to stop a phase in one of several processes.

    Raises
    ------
    CapabilityError
        Always.
    """
    raise CapabilityError("step.stop() was called where several processes train: run one process")
