"""What no graph can hold is refused by name, before anything is traced."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcs_cli.main import main
from pcs_core import export, load_recipe
from pcs_core.backbone import Backbone
from pcs_core.data import Recipe
from pcs_core.errors import CapabilityError, InputError, UnknownNameError


def without_losses(system: str, *settings: str) -> Recipe:
    import dataclasses

    recipe = load_recipe(system, backbone="tiny", overrides=settings)
    uses = tuple(u for u in recipe.uses if not u.name.startswith("regularizers"))
    return dataclasses.replace(recipe, uses=uses)


@pytest.mark.parametrize(
    ("system", "reason"),
    [
        ("dreambooth", r"'weights\.full' replaces weights of the denoiser"),
        ("oft", r"'weights\.peft' changes layers of the"),
        ("neti", r"'tokens\.mapper' says another word at each noise level"),
        ("perfusion", r"'weights\.key_locked' has the base read each prompt a second time"),
    ],
)
def test_by_name(system: str, reason: str, backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match=f"cannot be exported to ONNX: {reason}"):
        export(without_losses(system), tmp_path / "out", to="onnx", backbone=backbone)
    assert not (tmp_path / "out").exists()


def test_what_is_kept_between_steps(backbone: Backbone, tmp_path: Path) -> None:
    import dataclasses

    from pcs_core import load_preset

    recipe = without_losses("lora-dreambooth")
    for id in ("acceleration.feature_cache", "acceleration.cross_attention_gate"):
        more = load_preset(techniques=[id]).uses
        with pytest.raises(CapabilityError, match=f"ONNX: '{id}' keeps what the network said"):
            export(
                dataclasses.replace(recipe, uses=(*recipe.uses, *more)),
                tmp_path / "out",
                to="onnx",
                backbone=backbone,
            )


@pytest.mark.parametrize("id", ["tiny-video", "tiny-tokens"])
def test_backbones_that_draw_no_pictures_from_noise(id: str, tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="does not draw pictures from noise"):
        export(without_losses("lora-dreambooth"), tmp_path / "out", to="onnx", backbone=id)


def test_a_tolerance(backbone: Backbone, tmp_path: Path) -> None:
    recipe = without_losses("lora-dreambooth")
    with pytest.raises(InputError, match=r"tolerance 0\.5 is not supported: 0 to 0\.1"):
        export(recipe, tmp_path / "out", to="onnx", backbone=backbone, tolerance=0.5)
    with pytest.raises(CapabilityError, match="--option tolerance="):  # the option arrives
        export(recipe, tmp_path / "out", to="onnx", backbone=backbone, tolerance=1e-12)


def test_an_opset(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset 12 is not supported: 20"):
        export(
            without_losses("lora-dreambooth"),
            tmp_path / "out",
            to="onnx",
            backbone=backbone,
            opset=12,
        )


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no exporter 'onxx', did you mean 'onnx'"):
        export(without_losses("lora-dreambooth"), tmp_path / "out", to="onxx", backbone="tiny")


def test_an_option_of_the_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "lora-dreambooth", "--to", "onnx", "--out", str(tmp_path / "out")]
    assert main([*words, "--option", "opsett=21"]) == 2
    assert "--option: onnx has no setting 'opsett', did you mean 'opset'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
