"""The seam between techniques and networks: sites, chains, attachment, evaluation."""

from __future__ import annotations

from pcs_core.backbone.attach import Attachment, suspended
from pcs_core.backbone.base import BackboneBase, weights_hash
from pcs_core.backbone.context import Context, Restore
from pcs_core.backbone.protocol import Backbone, Process, Sampler, Tokenizer
from pcs_core.backbone.sites import globs_of, select_sites
from pcs_core.backbone.tensors import export_tensors, import_tensors, trainable
from pcs_core.backbone.tokens import TokenisedPrompts, substitute, tokenise
from pcs_core.backbone.weighed import weight_in
from pcs_core.backbone.written import names_token, word_in
from pcs_core.edits import AttentionChain, batched_linear, gather, place_rows

__all__ = [
    "Attachment",
    "AttentionChain",
    "Backbone",
    "BackboneBase",
    "Context",
    "Process",
    "Restore",
    "Sampler",
    "TokenisedPrompts",
    "Tokenizer",
    "batched_linear",
    "export_tensors",
    "gather",
    "globs_of",
    "import_tensors",
    "names_token",
    "place_rows",
    "select_sites",
    "substitute",
    "suspended",
    "tokenise",
    "trainable",
    "weight_in",
    "weights_hash",
    "word_in",
]
