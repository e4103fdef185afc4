"""What adapters read of the metrics: tokens and vectors of a subject, and a clear word without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcs_core.catalogue import catalogue
from pcs_core.errors import InputError
from pcs_mini.metrics import identity, judge, stored
from pcs_mini.metrics.encoding import subject_vector, tokens_of
from pcs_mini.metrics.trunk import Embedder, Trunk

NET = {"size": 8, "widths": [4, 4, 4, 4]}


@pytest.fixture
def metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Untrained metrics in a folder of their own."""
    torch.manual_seed(0)
    names = {"concept": ["dog", "cat"], "style": ["flat"], "place": ["beach"]}
    stored.write(tmp_path / "judge", judge.build(names), {"names": names})
    stored.write(tmp_path / "identity", Embedder(**NET), {"net": NET})
    monkeypatch.setenv(stored.ELSEWHERE, str(tmp_path))
    for module in (judge, identity):
        module.load.cache_clear()
    yield tmp_path
    for module in (judge, identity):
        module.load.cache_clear()


def test_the_catalogue_gives_encoders_of_the_metrics_found(metrics: Path) -> None:
    pictures = torch.rand(2, 3, 128, 128)
    image = catalogue().get("feature_models", "mini.image")()
    assert image.patches(pictures).shape == (2, 64, 240)
    assert image.pooled(pictures).shape == (2, 588)
    face = catalogue().get("feature_models", "mini.identity")()
    assert face.patches(pictures).shape == (2, 65, 176)
    torch.testing.assert_close(face.patches(pictures)[:, 0, :8], face.pooled(pictures))
    torch.testing.assert_close(face.pooled(pictures).norm(dim=1), torch.ones(2))


def test_without_metrics_one_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(stored.ELSEWHERE, str(tmp_path / "none"))
    judge.load.cache_clear()
    with pytest.raises(InputError, match=r"no metric in .*judge: .*pcs mini metric judge"):
        catalogue().get("feature_models", "mini.image")()


def test_a_token_holds_the_colours_of_its_own_cell() -> None:
    x = torch.zeros(1, 3, 64, 64)
    x[:, 0, 8:16, 16:24] = 1.0  # the third cell of the second row is red
    colours = tokens_of(Trunk((4, 4, 4, 4), out=6).eval(), x)[0, :, 6:]
    assert colours[10].unflatten(0, (3, 16))[0].eq(1).all()
    assert float(colours.detach().sum()) == 16.0


def test_a_vector_follows_its_subject_and_not_the_place() -> None:
    """The same square elsewhere, on another ground, looks the same; another square does not."""
    tokens = torch.zeros(3, 64, 2)
    x = torch.zeros(3, 3, 64, 64)
    subject = torch.full((3, 8, 8), 1e-4)
    for row, (top, left, shade) in enumerate(((0, 0, 0.7), (4, 3, 0.7), (4, 3, -0.7))):
        x[row] = (-1.0, 1.0, 0.3)[row]
        x[row, :, 8 * top : 8 * top + 32, 8 * left : 8 * left + 32] = shade
        subject[row, top : top + 4, left : left + 4] = 1.0
    look = subject_vector(x, tokens, subject.flatten(1))[:, 4:].unflatten(1, (3, 6, 6))
    inner = look[:, :, 1:5, 1:5]
    torch.testing.assert_close(inner[0], inner[1], atol=0.05, rtol=0)
    assert float((inner[1] - inner[2]).abs().min()) > 1.0
