"""Metrics: what is measured of pictures, each with its paper, model and preprocessing.

Ids that start with ``mini.`` look through the metrics of the Mini world and say nothing about
photographs; all others load the published model, and fail by name where its weights are absent.
"""

from __future__ import annotations

from pcs_bench.metrics.metric import Metric, get, ids

__all__ = ["Metric", "get", "ids"]
