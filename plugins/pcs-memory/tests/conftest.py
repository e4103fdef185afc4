"""What torch's allocator gives out in a run, and skeletons as folders without weights."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile


@pytest.fixture(scope="session")
def measured() -> Callable[[Callable[[], Any]], int]:
    """Return what measures a run; nothing of how memory is estimated is in it."""
    return measure


@pytest.fixture(scope="session")
def without_weights() -> Callable[[Any, Path], Path]:
    """Return what writes a backbone in diffusers' layout: configurations, tokenizers, the schedule."""
    return write_configurations


def measure(run: Callable[[], Any]) -> int:
    """Return the most bytes that ``run`` held at once beyond what there was before it."""
    gc.collect()  # what is given back meanwhile must be the run's
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    live = peak = 0
    # in the order of time: what was given (positive) and given back
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def write_configurations(backbone: Any, folder: Path) -> Path:
    """Write what a folder of ``backbone`` holds beside weights; return ``folder``."""
    layout = backbone.layout
    encoders = [part for part in layout.parts if part.startswith("text_encoder")]
    networks = dict(backbone.text_encoder.named_children())
    if "text_encoder" not in networks:
        networks = {"text_encoder": backbone.text_encoder}
    networks = {name: networks[name] for name in encoders}
    networks |= {layout.denoiser: backbone.denoiser, layout.autoencoder: backbone.vae}
    for name, network in networks.items():
        (folder / name).mkdir(parents=True)
        config = network.config
        text = (
            config.to_json_string()
            if hasattr(config, "to_json_string")
            else network.to_json_string()
        )
        (folder / name / "config.json").write_text(text)
    for name, tokenizer in zip(
        (part for part in layout.parts if part.startswith("tokenizer")),
        tokenizers_of(backbone),
        strict=True,
    ):
        tokenizer.save_pretrained(folder / name)
    (folder / "scheduler").mkdir()
    schedule = json.dumps(dict(backbone.scheduler_config))
    (folder / "scheduler" / "scheduler_config.json").write_text(schedule)
    return folder


def tokenizers_of(backbone: Any) -> list[Any]:
    """Return the tokenizers of a backbone, in the order of its folders."""
    reads = getattr(backbone.embedding, "reads", None)
    first = [backbone.tokenizer.inner] if reads is None else [t.inner for _, t in reads]
    return [*first, *(tokenizer.inner for tokenizer in backbone.tokenizer.beside)]
