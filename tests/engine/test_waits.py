"""A training waits for the device when it reports, and at no other step: counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pcs_core.backbone import Backbone
from pcs_core.catalogue import catalogue
from pcs_core.data import Phase
from pcs_engine import Progress, fit
from pcs_engine import progress as progress_module
from pcs_testing import make_recipe, make_subject


class Readings(TorchDispatchMode):
    """Counts how often the host reads a number that comes from the network's weights.

    On a device each such reading waits for all that was asked of it. Tensors made from weights are known
    by their storages, which are kept alive so that none is mistaken for another.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.count = 0
        self.known: dict[int, Any] = {}
        for module in backbone.parts.values():
            for weight in module.parameters():
                self.note(weight)

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.known[storage._cdata] = storage

    def knows(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self.known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(self.knows(leaf) for leaf in tree_leaves((args, kwargs))):
            reads = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")
            self.count += any(name in str(func) for name in reads)
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self.note(leaf)
        return result


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_reading_per_report(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(progress_module, "REPORT_EVERY", 3)
    readings = Readings(backbone)
    tolist = Tensor.tolist

    def counted(self: Tensor) -> Any:
        readings.count += readings.knows(self)
        return tolist(self)

    monkeypatch.setattr(Tensor, "tolist", counted)
    known = catalogue()
    lora = known.get("techniques", "weights.lora").from_settings({"rank": 2})
    token = known.get("techniques", "tokens.learnable").from_settings({})
    phase = Phase("p", 6, lr={"*": 1e-3}, clip=1.0, ema=0.9, accumulate=2, warmup=2)
    counts: list[int] = []

    def watch(progress: Progress) -> None:
        counts.append(readings.count)

    subjects = [make_subject(n, token=f"<{n}>", seed=i) for i, n in enumerate("ab")]
    with readings:
        fit(
            make_recipe([token, lora], phase),
            subjects,
            backbone,
            precision=precision,
            watch=[watch],
        )
    assert len(counts) == 2
    assert counts[1] - counts[0] == 1


def test_the_counter_counts(backbone: Backbone) -> None:
    readings = Readings(backbone)
    with readings:
        number = float(next(backbone.parts["denoiser"].parameters()).sum() * 2)
        float(torch.ones(1).sum())  # has nothing to do with the network
    assert readings.count == 1
    assert number == number
