"""Light of pictures with high dynamic range, brought into the range of sRGB.

PQ (SMPTE ST 2084) says light in cd/m2, HLG (ARIB STD-B67) light of the scene. Both become light of the screen
over that of white paper, 203 cd/m2 (ITU-R BT.2408, 2.1). What is brighter is compressed: from three quarters of
white on, a curve without a kink leads to white and not beyond, channel by channel.
"""

from __future__ import annotations

import numpy as np

PAPER = 203.0
"""Light of diffuse white in cd/m2."""
PEAK = 1000.0
"""Light of the screen that HLG is meant for, in cd/m2; its gamma is 1.2 (ITU-R BT.2100, table 5)."""
KNEE = 0.75
"""Light, of white's, from which brighter parts are compressed."""
NOTE = "it is HDR ({}): what is brighter than white paper is compressed into sRGB"


def pq_light(levels: np.ndarray) -> np.ndarray:
    """Return light in [0, 1] of PQ levels in [0, 1] (ITU-R BT.2100, table 4)."""
    power = levels ** (1 / 78.84375)
    light = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return _compressed(10_000 * light ** (1 / 0.1593017578125) / PAPER)


def hlg_light(levels: np.ndarray) -> np.ndarray:
    """Return light in [0, 1] of HLG levels in [0, 1] (ITU-R BT.2100, table 5); the gamma is per channel."""
    bright = np.exp((levels - 0.55991073) / 0.17883277) + 0.28466892
    scene = np.where(levels <= 0.5, levels**2 / 3, bright / 12)
    return _compressed(PEAK * scene**1.2 / PAPER)


def _compressed(light: np.ndarray) -> np.ndarray:
    over = np.maximum(light - KNEE, 0) / (1 - KNEE)
    return np.where(light <= KNEE, light, KNEE + (1 - KNEE) * np.tanh(over))
