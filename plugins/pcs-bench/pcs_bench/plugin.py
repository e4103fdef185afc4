"""What this distribution holds. Import-cheap."""

from __future__ import annotations

from collections.abc import Mapping

from pcs_core.hookspecs import catalogue_hookimpl

_ENTRIES = "pcs_bench.metrics.entries"


@catalogue_hookimpl
def commands() -> Mapping[str, str]:
    """``pcs bench ...`` and ``pcs compare``."""
    return {"bench": "pcs_bench.commands:app", "compare": "pcs_bench.run.compare:app"}


@catalogue_hookimpl
def metrics() -> Mapping[str, str]:
    """Functions of no argument that return a :class:`pcs_bench.metrics.Metric`."""
    return {
        "clip-t": f"{_ENTRIES}:clip_t",
        "clip-i": f"{_ENTRIES}:clip_i",
        "dino-i": f"{_ENTRIES}:dino_i",
        "dinov2-i": f"{_ENTRIES}:dinov2_i",
        "identity.dlib": f"{_ENTRIES}:identity",
        "identity.facenet": f"{_ENTRIES}:identity_facenet",
        "masked-dino-i": f"{_ENTRIES}:masked_dino_i",
        "effnet-lite-i": f"{_ENTRIES}:lite_i",
        "masked-effnet-lite-i": f"{_ENTRIES}:masked_lite_i",
        "copy.effnet-lite": f"{_ENTRIES}:lite_copy",
        "background-leak.effnet-lite": f"{_ENTRIES}:lite_background_leak",
        "fid": f"{_ENTRIES}:fid",
        "inception-score": f"{_ENTRIES}:inception_score",
        "image-reward": f"{_ENTRIES}:image_reward",
        "hps-v2": f"{_ENTRIES}:hps_v2",
        "pick-score": f"{_ENTRIES}:pick_score",
        "lpips-diversity": f"{_ENTRIES}:lpips_diversity",
        "copy": f"{_ENTRIES}:copy",
        "prompt-drop": f"{_ENTRIES}:prompt_drop",
        "pair-subjects": f"{_ENTRIES}:pair_subjects",
        "identity-mixing": f"{_ENTRIES}:identity_mixing",
        "mini.clip-t": f"{_ENTRIES}:mini_clip_t",
        "mini.clip-i": f"{_ENTRIES}:mini_clip_i",
        "mini.masked-i": f"{_ENTRIES}:mini_masked_i",
        "mini.copy": f"{_ENTRIES}:mini_copy",
        "mini.background-leak": f"{_ENTRIES}:mini_background_leak",
        "mini.prompt-drop": f"{_ENTRIES}:mini_prompt_drop",
        "mini.diversity": f"{_ENTRIES}:mini_diversity",
        "mini.fid": f"{_ENTRIES}:mini_fid",
        "mini.pair-subjects": f"{_ENTRIES}:mini_pair_subjects",
        "mini.identity-mixing": f"{_ENTRIES}:mini_identity_mixing",
    }


@catalogue_hookimpl
def watchers() -> Mapping[str, str]:
    """``pcs fit --watch fidelity``."""
    return {"fidelity": "pcs_bench.run.watching:fidelity"}
