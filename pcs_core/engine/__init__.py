"""The two loops and what surrounds them."""

from __future__ import annotations

from pcs_core.engine.builtin import CoreDenoise
from pcs_core.engine.fit import fit
from pcs_core.engine.opening import open_backbone, open_engine
from pcs_core.engine.personalized import draw_personalized
from pcs_core.engine.progress import Progress
from pcs_core.engine.restoring import restore, restored
from pcs_core.engine.run import EngineRun
from pcs_core.engine.sample import SampleProgress, draw_base, sample
from pcs_core.engine.services import RunServices
from pcs_core.engine.texts import text_features

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
