"""How far a system is on a backbone. The public names stand in ``__init__.pyi``."""

from __future__ import annotations

from pcs_core.facade import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
