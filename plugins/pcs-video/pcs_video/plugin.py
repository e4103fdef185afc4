"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def techniques() -> Mapping[str, str]:
    """Techniques by code id."""
    return {
        "video.motion_residual": "pcs_video.motion_residual:MotionResidual",
        "video.noise_prior": "pcs_video.noise_prior:NoisePrior",
        "video.single_frames": "pcs_video.single_frames:SingleFrames",
    }
