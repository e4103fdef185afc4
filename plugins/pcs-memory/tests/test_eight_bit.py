"""AdamW in 8 bits: a byte a number, steps as AdamW's; without its package it is refused by name."""

from __future__ import annotations

import pytest
import torch

from pcs_core.errors import CapabilityError
from pcs_memory.eight_bit import PACKAGE, adamw


def test_it_is_refused_where_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcs_memory.eight_bit.find_spec", lambda _: None)
    with pytest.raises(
        CapabilityError, match=r'adamw-8bit.*pip install "pcs-memory\[bitsandbytes\]"'
    ):
        adamw([])


def test_it_steps_as_adamw_with_a_byte_a_number() -> None:
    pytest.importorskip(PACKAGE)
    start = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    target = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))

    def trained(make: object) -> tuple[torch.Tensor, torch.optim.Optimizer]:
        parameter = torch.nn.Parameter(start.clone())
        optimizer = make([{"params": [parameter], "lr": 1e-2}])  # type: ignore[operator]
        for _ in range(20):
            ((parameter - target) ** 2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return parameter.detach(), optimizer

    ours, optimizer = trained(lambda groups: adamw(groups, weight_decay=0.01))
    exact, _ = trained(lambda groups: torch.optim.AdamW(groups, weight_decay=0.01))
    assert (ours - exact).norm() < 0.1 * (exact - start).norm()
    (state,) = optimizer.state.values()
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
