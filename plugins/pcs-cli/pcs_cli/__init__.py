"""The command ``pcs``. Plugins that offer commands of their own import the names of ``__init__.pyi``.

They are loaded on first use, so that help and listings import no torch.
"""

from __future__ import annotations

from pcs_core.facade import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
