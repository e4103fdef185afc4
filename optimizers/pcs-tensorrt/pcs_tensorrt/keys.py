"""What an engine depends on, as one key: another weight, shape, type, version or GPU is another engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcs_tensorrt.deployments import Graph
    from pcs_tensorrt.profiles import Shapes


def facts(
    graph: Graph,
    profile: Mapping[str, Shapes],
    dtype: str,
    options: Mapping[str, Any],
    platform: Mapping[str, str],
) -> dict[str, Any]:
    """Return all that the key is made of, for reports."""
    return {
        "graph": graph.name,
        "hashes": graph.hashes,
        "profile": {name: [list(s) for s in shapes] for name, shapes in sorted(profile.items())},
        "dtype": dtype,
        "options": dict(sorted(options.items())),
        "platform": dict(sorted(platform.items())),
    }


def key(facts: Mapping[str, Any]) -> str:
    """Return the engine's key: 32 hexadecimal digits over :func:`facts`."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def platform(trt: Any) -> dict[str, str]:
    """Return versions and GPU. Engines are not portable between them."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return {
        "tensorrt": str(trt.__version__),
        "cuda": str(torch.version.cuda),
        "gpu": torch.cuda.get_device_name(),
        "compute": f"{major}.{minor}",
        "driver": str(torch.cuda.driver_version()) if hasattr(torch.cuda, "driver_version") else "",
    }
