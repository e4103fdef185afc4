"""Backbone families on diffusers classes."""

from __future__ import annotations

import logging


def _is_for_users(record: logging.LogRecord) -> bool:
    return "register_constant() on Enum" not in record.getMessage()


# where torchao is installed, diffusers imports it, and torch then warns of torchao's own enums
logging.getLogger("torch.utils._pytree").addFilter(_is_for_users)
