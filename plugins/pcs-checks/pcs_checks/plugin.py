"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl


@catalogue_hookimpl
def checks() -> Mapping[str, str]:
    """Defining checks by system id."""
    return {
        "anti-dreambooth": "pcs_checks.anti_dreambooth:check",
        "break-a-scene": "pcs_checks.break_a_scene:check",
        "custom-diffusion": "pcs_checks.custom_diffusion:check",
        "dreambooth": "pcs_checks.dreambooth:check",
        "dreamfusion": "pcs_checks.dreamfusion:check",
        "fastcomposer": "pcs_checks.fastcomposer:check",
        "instantid": "pcs_checks.instantid:check",
        "ip-adapter": "pcs_checks.ip_adapter:check",
        "layout-control": "pcs_checks.layout_control:check",
        "lora-dreambooth": "pcs_checks.lora_dreambooth:check",
        "style-aligned": "pcs_checks.style_aligned:check",
        "neti": "pcs_checks.neti:check",
        "motiondirector": "pcs_checks.motiondirector:check",
        "mix-of-show": "pcs_checks.mix_of_show:check",
        "oft": "pcs_checks.oft:check",
        "p-plus": "pcs_checks.p_plus:check",
        "perfusion": "pcs_checks.perfusion:check",
        "svdiff": "pcs_checks.svdiff:check",
        "styledrop": "pcs_checks.styledrop:check",
        "textual-inversion": "pcs_checks.textual_inversion:check",
    }


@catalogue_hookimpl
def claims() -> Mapping[str, str]:
    """Named properties that a recipe's check may list."""
    training = (
        "captions",
        "class_pictures",
        "drops",
        "comes_back",
        "ground_unlearned",
        "learns_nothing",
        "masked_error",
        "mean_error",
        "phase_numbers",
        "own_updates",
        "ran",
        "rows",
        "still",
        "stores",
        "terms",
        "trained_by",
    )
    drawing = (
        "base_moves",
        "deaf_to",
        "follows_boxes",
        "learned_rows",
        "matters",
        "normed_tokens",
        "off_is_base",
        "per_layer",
        "pixels_within",
        "rank_at_most",
        "starts_at_base",
        "strength_moves",
        "words",
    )
    return {
        **{name: f"pcs_checks.claims.training:{name}" for name in training},
        **{name: f"pcs_checks.claims.drawing:{name}" for name in drawing},
        "cells": "pcs_checks.claims.encoding:cells",
        "by_stage": "pcs_checks.claims.encoding:by_stage",
        "ends_in": "pcs_checks.claims.encoding:ends_in",
        "head_rank": "pcs_checks.claims.heads:head_rank",
        "blends": "pcs_checks.claims.blending:blends",
        "word_of_each_step": "pcs_checks.claims.blending:word_of_each_step",
        "draws_beside": "pcs_checks.claims.lending:draws_beside",
        "lends_maps": "pcs_checks.claims.lending:lends_maps",
        "spans_prompts": "pcs_checks.claims.encoding:spans_prompts",
        "text_prefix": "pcs_checks.claims.encoding:text_prefix",
        "inside_alone": "pcs_checks.claims.training:inside_alone",
        "in_subspace": "pcs_checks.claims.searching:in_subspace",
        "nearer": "pcs_checks.claims.own_words:nearer",
        "own_words": "pcs_checks.claims.own_words:own_words",
        "spares": "pcs_checks.claims.own_words:spares",
        "searched": "pcs_checks.claims.searching:searched",
        "from_nothing": "pcs_checks.claims.bounds:from_nothing",
        "keeps_norm": "pcs_checks.claims.bounds:keeps_norm",
        "stops": "pcs_checks.claims.stopping:stops",
    }


@catalogue_hookimpl
def checkers() -> Mapping[str, str]:
    """What runs the check that a recipe's ``[check]`` describes."""
    return {"claims": "pcs_checks.run:find"}
