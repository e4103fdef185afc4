"""Tensors are hashed once, and again when they change or others take their place."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pcs_core.data import StreamEdit
from pcs_onnx import edits
from pcs_onnx.edits import digest


class Own(StreamEdit):
    def __init__(self) -> None:
        super().__init__("own", ("image",))
        self.weight = nn.Parameter(torch.zeros(64))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what was hashed in full."""
    sizes: list[int] = []
    real = edits.hashlib.sha256

    def counted(data: bytes = b"") -> Any:
        if data:
            sizes.append(len(data))
        return real(data)

    monkeypatch.setattr(edits.hashlib, "sha256", counted)
    return sizes


def test_once_until_it_changes(hashed: list[int]) -> None:
    edit = Own()
    names = [f"{edit.owner}/own/weight"]
    first = digest([edit], names)
    assert digest([edit], names) == first
    assert hashed == [256]
    with torch.no_grad():
        edit.weight.add_(1.0)
    assert digest([edit], names) != first
    assert hashed == [256, 256]


def test_another_tensor_in_its_place_is_hashed(hashed: list[int]) -> None:
    """A freed tensor's memory goes to the next one of its size, so the hashed one is held."""
    edit = Own()
    names = [f"{edit.owner}/own/weight"]
    memory = np.zeros(64, dtype=np.float32)
    reference = weakref.ref(memory)
    edit.weight = nn.Parameter(torch.from_numpy(memory))
    first = digest([edit], names)
    edit.weight = nn.Parameter(torch.ones(64))
    del memory
    assert reference() is not None
    assert digest([edit], names) != first
    assert hashed == [256, 256]
    assert reference() is None  # and no longer than it must
