"""The gate with the trained backbone and its own metrics: a sabotaged preset loses, and is told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcs_acceleration.comparing import Member, check_preset, metric, places, references
from pcs_core import fit, installed, load_preset, load_subject, open_backbone, recipe_from_document

TRIED = """
[preset]
id = "tried"
{text}
[gate]
identity = 0.08
alignment = 0.08
psnr = 20.0
cost = 0.8
"""
GENTLE = '[[use]]\ntechnique = "acceleration.feature_cache"\nevery = 2'
SABOTAGED = "[sample]\nsteps = 1"


@pytest.mark.slow
def test_a_sabotaged_preset_fails_where_a_gentle_one_passes(tmp_path: Path) -> None:
    if "mini" not in installed().ids("backbones"):
        pytest.skip("pcs-mini is not installed")
    backbone: Any = open_backbone("mini")
    # the noun alone: nothing trains, and the backbone draws some dog
    document = {
        "recipe": {"id": "noun"},
        "use": [{"technique": "tokens.rare", "identifier": ""}],
        "sample": {"steps": 10, "scale": 3.0},
    }
    folder = installed().get("datasets", "mini.subjects")()["dog_pug"]
    subject = load_subject(folder, noun="dog", token="<dog>")
    (artifact,) = fit(recipe_from_document(document), subject, backbone)
    member = Member(artifact, references(artifact, backbone, folder), "dog")

    def verdict(text: str) -> Any:
        path = tmp_path / "tried.toml"
        path.write_text(TRIED.format(text=text))
        eyes = {"identity": metric("mini.clip-i"), "alignment": metric("mini.clip-t")}
        given = {"prompts": places(backbone)[:10], **eyes}
        return check_preset(load_preset(path), [member], backbone, **given)

    gentle, bad = verdict(GENTLE), verdict(SABOTAGED)
    assert gentle.passed, gentle.summary
    assert not bad.passed, bad.summary
    assert any(reason.startswith("alignment") for reason in bad.reasons), bad.summary
    assert bad.cost < 0.2
