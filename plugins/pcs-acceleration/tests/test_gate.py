"""The gate: bounds on the lower end of paired losses; what loses too much, or saves too little, fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_acceleration.comparing import Member, check_preset, cost, flops, places
from pcs_acceleration.gate import check_bounds, judge, lower_end, psnr
from pcs_cli.main import main
from pcs_core import fit, load_preset, open_backbone, save
from pcs_core.data import Phase, Preset, SampleSettings
from pcs_core.errors import InputError
from pcs_testing import make_picture, make_recipe, make_subject
from pcs_testing.probe import Probe

BOUNDS = {"identity": 0.02, "alignment": 0.02, "cost": 0.5}


def losses(identity: float, alignment: float = 0.0, spread: float = 0.0) -> dict[str, list[float]]:
    signs = [1 if i % 2 else -1 for i in range(20)]
    return {
        "identity": [identity + spread * s for s in signs],
        "alignment": [alignment] * 20,
    }


def test_what_loses_little_and_saves_much_passes() -> None:
    verdict = judge(BOUNDS, losses(-0.01), 0.4)
    assert verdict.passed
    assert verdict.summary.startswith("identity -0.010 (at least -0.010), alignment +0.000")
    assert json.loads(json.dumps(verdict.plain()))["pairs"] == 20


@pytest.mark.parametrize(
    ("given", "share", "reason"),
    [
        (losses(-0.03), 0.4, "identity may be as low as -0.030, and must be at least -0.02"),
        (losses(0.1, -0.05), 0.4, "alignment may be as low as -0.050"),
        # the mean would do, the bound does not
        (losses(-0.015, spread=0.1), 0.4, "identity may be as low as -0.0"),
        (losses(0.0), 0.8, "it costs 0.80 of the plain drawing, and may cost 0.5"),
        (losses(float("nan")), 0.4, "identity may be as low as nan"),
    ],
)
def test_what_does_not_hold_is_said(given: Any, share: float, reason: str) -> None:
    verdict = judge(BOUNDS, given, share)
    assert not verdict.passed
    assert reason in verdict.summary


def test_a_bound_needs_pairs() -> None:
    with pytest.raises(InputError, match="4 pairs of artifact and prompt are too few"):
        judge(BOUNDS, {"identity": [0.0] * 4, "alignment": [0.0] * 4}, 0.4)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"cost": 0.5}, "needs identity"),
        ({"identity": 0.02}, "needs cost"),
        ({**BOUNDS, "identy": 0.1}, "not 'identy'"),
        ({**BOUNDS, "cost": 2.0}, "cost = 2 is out of range"),
    ],
)
def test_bounds_are_checked(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_bounds(bounds, "x")


def test_statistics() -> None:
    assert lower_end([0.5] * 12) == 0.5
    spread = [0.0, 1.0] * 10
    assert 0.25 < lower_end(spread) < 0.4  # 0.5 - 1.645 * 0.5 / sqrt(20) = 0.316
    assert lower_end(spread) == lower_end(spread)
    same = torch.rand(2, 3, 4, 4)
    assert psnr(same, same).tolist() == [60.0, 60.0]
    assert psnr(same * 0 + 0.1, same * 0).tolist() == pytest.approx([20.0, 20.0])


def test_every_shipped_preset_has_bounds_that_hold_together() -> None:
    from pcs_acceleration.plugin import FILES

    for id in vars(FILES):
        for backbone in (None, "mini"):
            check_bounds(load_preset(id, backbone=backbone).bounds, id)
    assert (
        load_preset("fast", backbone="mini").sample["steps"] < load_preset("fast").sample["steps"]
    )


class Likeness:
    """Likeness to the first reference: minus the mean distance of pixels."""

    def score(self, pictures: torch.Tensor, *, references: torch.Tensor, **_: Any) -> torch.Tensor:
        return -(pictures - references[:1]).abs().flatten(1).mean(1)


@pytest.fixture(scope="module")
def member() -> Member:
    """A subject whose reference is what the plain drawing gives: each change is a loss."""
    from pcs_core import sample

    backbone: Any = open_backbone("tiny")
    recipe = make_recipe(
        [Probe()], Phase("p", 1, lr={"*": 0.5}), sample=SampleSettings(steps=6, scale=4.0)
    )
    (artifact,) = fit(recipe, make_subject(), backbone)
    mean = sample(artifact, backbone, "a picture of <fido>", seed=700_000)
    return Member(artifact, mean, "fido")


def preset(tmp_path: Path, text: str, bounds: str) -> Preset:
    path = tmp_path / "tried.toml"
    path.write_text(f'[preset]\nid = "tried"\n{text}\n[gate]\n{bounds}\n')
    return load_preset(path)


GENTLE = '[[use]]\ntechnique = "acceleration.guidance_interval"\nlow = 0.0\nhigh = 1e9\nstop = 0.8'
SABOTAGED = "[sample]\nsteps = 1\nscale = 40.0"


@pytest.mark.rotated
def test_a_gentle_preset_passes_and_a_sabotaged_one_fails(member: Member, tmp_path: Path) -> None:
    backbone: Any = open_backbone("tiny")
    given = {"identity": Likeness(), "prompts": places(backbone)}
    bounds = "identity = 0.02\npsnr = 20.0\ncost = 0.95"
    verdict = check_preset(preset(tmp_path, GENTLE, bounds), [member], backbone, **given)
    assert verdict.passed, verdict.summary
    assert verdict.facts["metrics"] == {"identity": "Likeness"}
    bad = check_preset(preset(tmp_path, SABOTAGED, bounds), [member], backbone, **given)
    assert not bad.passed
    assert {r.split()[0] for r in bad.reasons} == {"identity", "psnr"}
    # as like as can be, and no cheaper: not fast either
    same = check_preset(preset(tmp_path, "", bounds), [member], backbone, **given)
    assert same.reasons == ("it costs 1.00 of the plain drawing, and may cost 0.95",)
    assert same.scores["psnr"].mean == 60.0


def test_the_cost_counts_steps_and_branches(member: Member) -> None:
    backbone: Any = open_backbone("tiny")
    assert cost(load_preset(), member, backbone) == 1.0
    one = flops(member.artifact, backbone, "a <fido>", Preset("one", sample={"steps": 1}))
    six = flops(member.artifact, backbone, "a <fido>")
    three = flops(member.artifact, backbone, "a <fido>", Preset("three", sample={"steps": 3}))
    assert (three - one) / (six - one) == pytest.approx(2 / 5)
    for id, most in (("fast", 0.95), ("balanced", 0.8), ("gated", 0.85)):
        chosen = load_preset(id, overrides=["sample.steps=6", "sample.scheduler=ddim"])
        assert cost(chosen, member, backbone) < most


def test_the_command_writes_a_verdict_that_sampling_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pcs_acceleration.comparing as comparing
    from pcs_core import recipe_from_document, write_png

    monkeypatch.setenv("PCS_VERDICTS", str(tmp_path / "verdicts"))
    monkeypatch.setattr(comparing, "metric", lambda id: Likeness())
    backbone: Any = open_backbone("tiny")
    document = {
        "recipe": {"id": "plain"},
        "use": [{"technique": "tokens.rare"}],
        "sample": {"steps": 6, "scale": 2.0},
    }
    (artifact,) = fit(recipe_from_document(document), make_subject(), backbone)
    save(artifact, tmp_path / "fido")
    (tmp_path / "photos").mkdir()
    write_png(make_picture(), tmp_path / "photos" / "0.png")
    file = tmp_path / "tried.toml"
    sample = ["sample", str(tmp_path / "fido"), "a <fido>", "-n", "1", "--preset", str(file)]
    check = ["preset", "check", str(file), str(tmp_path / "fido")]
    check += ["--subject", str(tmp_path / "photos"), "--prompts", "10", "--seeds", "1"]

    def written(text: str) -> None:
        file.write_text(
            f'[preset]\nid = "tried"\n{text}\n[gate]\nidentity = 0.5\npsnr = 22.0\ncost = 0.99\n'
        )

    def drawn(out: str) -> tuple[dict[str, Any], str]:
        capsys.readouterr()
        assert main([*sample, "--out", str(tmp_path / out)]) == 0
        facts = json.loads((tmp_path / out / "sample.json").read_text())
        return facts, capsys.readouterr().err

    written(GENTLE)
    facts, said = drawn("before")
    assert "was not checked for plain on this backbone" in said
    assert facts["preset"]["uses"][0]["stop"] == 0.8
    assert main(check) == 0
    facts, said = drawn("after")
    assert "preset 'tried' passed its gate: identity" in said
    assert facts["preset"]["verdict"]["passed"] is True
    written(SABOTAGED)
    assert "was not checked" in drawn("changed")[1]  # the old verdict is void
    assert main(check) == 1
    assert "FAILED its gate" in drawn("bad")[1]
    capsys.readouterr()
    assert main([*check[:-4], "--prompts", "2"]) == 2
    assert "too few for a bound" in capsys.readouterr().err
