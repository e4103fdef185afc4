"""What backbones are built from: processes of noise, and what a scheduler's numbers mean.

Each process is a :class:`pcs_core.backbone.Process`, each sampler a :class:`pcs_core.backbone.Sampler`. x0 is
what all of them are asked in. Everything is computed in fp32, whatever the network's dtype: converting in bf16
costs more accuracy than running the network in it.
"""

from __future__ import annotations

from pcs_processes.flow_matching import FlowMatching
from pcs_processes.masked_tokens import MaskedTokens
from pcs_processes.samplers import FlowSampler, ScheduledSampler, make_scheduler
from pcs_processes.variance_preserving import VariancePreserving

__all__ = [
    "FlowMatching",
    "FlowSampler",
    "MaskedTokens",
    "ScheduledSampler",
    "VariancePreserving",
    "make_scheduler",
]
