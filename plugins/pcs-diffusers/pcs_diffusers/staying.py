"""Networks that stay as they were made: without weights, on torch's device "meta" or of fake tensors."""

from __future__ import annotations

from typing import Any


def stay(network: Any) -> Any:
    """Return ``network``, which from now on is moved nowhere and cast to nothing: there is nothing to move."""
    network._apply = lambda function, recurse=True: network
    return network


def stays(network: Any) -> bool:
    """Return whether ``network`` was told to stay."""
    return "_apply" in vars(network)
