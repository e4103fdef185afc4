"""What metrics need, what they agree with on pictures of known truth, and the published table."""

from __future__ import annotations

import pytest
import torch

from pcs_bench import metrics, published
from pcs_bench.metrics.segment import border_contrast
from pcs_bench.validate import Finding, spearman, validate
from pcs_core import installed
from pcs_core.errors import InputError


@pytest.fixture(scope="module")
def findings() -> dict[tuple[str, str], Finding]:
    return {(f.case, f.metric): f for f in validate(4) if f.metric.startswith("mini.")}


@pytest.mark.parametrize(
    ("case", "id", "least"),
    [
        ("text", "mini.clip-t", 0.5),
        ("likeness", "mini.clip-i", 0.5),
        ("likeness", "mini.masked-i", 0.5),
        ("copying", "mini.copy", 0.6),
        ("variety", "mini.diversity", 0.7),
        ("distribution", "mini.fid", 0.7),
        ("both", "mini.pair-subjects", 0.5),
        ("dropping", "mini.prompt-drop", 0.2),
        ("background", "mini.background-leak", 0.2),
        ("mixing", "mini.identity-mixing", 0.3),
    ],
)
def test_metrics_agree_with_the_truth(
    findings: dict[tuple[str, str], Finding], case: str, id: str, least: float
) -> None:
    finding = findings[case, id]
    assert finding.correlation is not None, finding.why
    assert finding.correlation > least


def test_every_metric_says_where_it_is_from() -> None:
    for id in metrics.ids():
        metric = metrics.get(id)
        assert metric.id == id
        assert metric.real != id.startswith("mini.")
        assert metric.model.startswith("mini.") != metric.real
        assert metric.title
        assert metric.preprocessing
        assert metric.licence
        assert metric.better in ("higher", "lower")
        assert metric.per in ("picture", "set", "suite")
        assert set(metric.needs) <= {"prompt", "references", "masks", "untuned"}


def test_what_is_missing_is_named() -> None:
    pictures = torch.rand(2, 3, 32, 32)
    with pytest.raises(InputError, match="'mini.clip-i' needs references"):
        metrics.get("mini.clip-i").score(pictures)
    with pytest.raises(InputError, match="needs one prompt per picture"):
        metrics.get("mini.clip-t").score(pictures, prompts=["one"])


def test_border_contrast_finds_drawn_subjects() -> None:
    studio = installed().get("datasets", "mini.held-out")()
    names = studio.names("drawn")[:4]
    overlaps = []
    for name in names:
        for place in ("beach", "red", "snow"):
            picture = studio.picture([name], seed=0, place=place)
            predicted, truth = border_contrast(picture.image[None])[0] > 0.5, picture.masks[0] > 0.5
            overlaps.append(float((predicted & truth).sum() / (predicted | truth).sum()))
    assert sum(overlaps) / len(overlaps) > 0.6


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ties share their mean rank: ranks 0.5 0.5 2 against 0 1 2
    assert spearman([5, 5, 6], [1, 2, 3]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


def test_the_published_table_is_marked_as_such() -> None:
    rows = published.table()
    assert len(rows) == 23
    assert all(row.published and row.backbone for row in rows)
    assert published.source()["published"]
    best = max((r for r in rows if r.type == "object"), key=lambda r: r.fidelity)
    assert (best.method, best.backbone, best.fidelity) == ("IP-Adapter", "SD 1.5", 0.825)
    # the survey's first claim, on its own figures
    assert best != max((r for r in rows if r.type == "object"), key=lambda r: r.text)
