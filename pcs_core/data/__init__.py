"""The types that travel between hooks, engine and backbones. All frozen but ``SampleStep``.

The public names stand in ``__init__.pyi``. They are loaded on first use: reading a recipe imports no torch.
"""

from __future__ import annotations

from pcs_core.facade import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
