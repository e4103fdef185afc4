"""Metrics: what is measured of pictures, each with its paper, model and preprocessing."""
