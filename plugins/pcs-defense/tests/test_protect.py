"""``pcs protect``: size, name, bound, alpha and orientation of what it writes; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_cli.main import main
from pcs_defense.protect import largest_change, protect, spread

FEW = [
    *("--set", "fit.cycles=1", "--set", "surrogate.steps=1", "--set", "adapt.steps=1"),
    *("--set", "attack.steps=2", "--set", "attack.lr=1.0", "--set", "sample.steps=2"),
    *("--set", "regularizers.prior_preservation.count=1"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of a wide photograph, an upright one stored on its side, and a transparent one."""
    path = tmp_path / "me"
    path.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (48, 80, 4), dtype=np.uint8)
    Image.fromarray(noise[..., :3]).save(path / "wide.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(path / "turned.jpg", quality=95, exif=exif)
    Image.fromarray(noise).save(path / "clear.png")
    return path


def run(folder: Path, out: Path, *more: str) -> int:
    return main(["protect", str(folder), "--out", str(out), "--backbone", "tiny", *FEW, *more])


def test_pictures_keep_size_name_alpha_and_the_bound(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "safe"
    assert run(folder, out) == 0
    pictures = ["clear.png", "turned.png", "wide.png"]
    # beside them lies the record by which --overwrite knows what this command wrote
    assert sorted(p.name for p in out.iterdir()) == [".pcs-files.json", *pictures]
    from PIL import ImageOps

    moved = []
    for file in folder.iterdir():
        before = np.asarray(ImageOps.exif_transpose(Image.open(file))).astype(int)
        after = np.asarray(Image.open(out / f"{file.stem}.png")).astype(int)
        assert after.shape == before.shape
        moved.append(np.abs(after - before)[..., :3].max())
        if file.stem == "clear":
            assert (after[..., 3] == before[..., 3]).all()
    assert max(moved) == 6  # floor(127.5 * 0.05), and the attack went all the way
    report = json.loads((tmp_path / "safe.json").read_text())
    assert report["eps"] == 0.05
    assert [row["largest_change"] for row in report["pictures"]] == [6, 6, 6]
    assert report["pictures"][1]["size"] == [48, 80]


def test_eps_is_a_setting_and_the_seed_repeats(folder: Path, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in ("a", "b")]
    for out in outs:
        assert run(folder, out, "--eps", "0.02", "--seed", "3") == 0
    first, second = (np.asarray(Image.open(out / "wide.png")).astype(int) for out in outs)
    assert (first == second).all()
    before = np.asarray(Image.open(folder / "wide.jpg")).astype(int)
    assert 0 < np.abs(first - before).max() <= 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--system", "lora-dreambooth"), "perturbs no pictures"),
        (("--eps", "0.001"), "less than one of 255 levels"),
        (("--eps", "3"), "eps"),
        (("--backbone", "tyny"), "tyny"),
    ],
)
def test_refusals(
    folder: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["protect", str(folder), "--out", str(tmp_path / "out"), "--backbone", "tiny"]
    assert main([*words, *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.json").exists()


def test_bad_folders_are_refused_as_by_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    assert run(folder, tmp_path / "out") == 2
    assert "broken.png" in capsys.readouterr().err
    (folder / "broken.png").unlink()
    (folder / "wide.png").write_bytes((folder / "clear.png").read_bytes())
    assert run(folder, tmp_path / "out") == 2
    assert "rename one" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", tmp_path / "out") == 2
    assert not (tmp_path / "out").exists()


def test_what_exists_is_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("mine")
    assert run(folder, tmp_path / "out") == 2
    assert (tmp_path / "out.json").read_text() == "mine"
    assert run(folder, folder) == 2


def test_the_crop_a_network_saw_is_where_the_change_lands() -> None:
    delta = torch.linspace(-1, 1, 8).expand(3, 8, 8)
    whole = spread(delta, (8, 24))
    assert torch.equal(whole[..., 8:16], delta)
    # what a network did not see changes as the crop's border does
    assert torch.equal(whole[0, 0, :8], torch.full((8,), -1.0))
    assert torch.equal(whole[0, 0, 16:], torch.full((8,), 1.0))
    tall = spread(delta, (24, 8))
    assert torch.equal(tall[:, 8:16], delta)
    assert torch.equal(tall[:, 20], delta[:, 7])
    assert spread(delta, (40, 30)).shape == (3, 40, 30)
    assert spread(delta, (4, 4)).shape == (3, 4, 4)


@pytest.mark.parametrize(("eps", "levels"), [(0.05, 6), (0.1, 12), (10 / 127.5, 10), (0.008, 1)])
def test_the_bound_is_whole_levels(eps: float, levels: int) -> None:
    assert largest_change(eps) == levels
    rng = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 32, 32), generator=rng, dtype=torch.uint8)
    delta = torch.rand(3, 8, 8, generator=rng).sub(0.5).sign()
    moved = (protect(picture, delta, eps).int() - picture.int()).abs()
    assert int(moved.max()) == levels
