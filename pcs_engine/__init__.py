"""The two loops, `fit` and `sample`, and what surrounds them: above `pcs_core`, which imports none of it."""

from __future__ import annotations

from pcs_engine.builtin import CoreDenoise
from pcs_engine.fit import fit
from pcs_engine.opening import open_backbone, open_engine
from pcs_engine.personalized import draw_personalized
from pcs_engine.progress import Progress
from pcs_engine.restoring import restore, restored
from pcs_engine.run import EngineRun
from pcs_engine.sample import SampleProgress, draw_base, sample
from pcs_engine.services import RunServices
from pcs_engine.texts import text_features

__all__ = [
    "CoreDenoise",
    "Progress",
    "SampleProgress",
    "fit",
    "open_backbone",
    "open_engine",
    "restore",
    "restored",
    "sample",
    "text_features",
]

EngineRun.services = RunServices(draw_base=draw_base, draw_personalized=draw_personalized)
