"""PCS core: five hooks, edits, two loops, recipes and artifacts.

The public names stand in ``__init__.pyi``. They are loaded on first use, so that ``import pcs_core``
imports no torch.
"""

from __future__ import annotations

from pcs_core.facade import attach
from pcs_core.threads import set_up_threads

__version__ = "0.1.0"

set_up_threads()

__getattr__, __dir__, __all__ = attach(__name__, __file__, eager=("__version__",))
