"""SVDiff: only singular values move, and stitched pictures hold both concepts in regions of their own."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from pcs_checks.changes import changed, snapshot
from pcs_checks.subjects import random_subject
from pcs_checks.variant import load
from pcs_core import Technique, fit, hookimpl, open_backbone
from pcs_core.backbone import import_tensors
from pcs_core.data import FitStep, Subject, Use, WeightEdit
from pcs_core.data.check import CheckReport, CheckRow
from pcs_testing import build_fusion

SYSTEM = "svdiff"


# long: one experiment, and every row that it is judged by
def check(neutral: bool = False) -> CheckReport:
    """Fit two concepts on the tiny network; ``neutral`` sets strength and share to 0."""
    started = time.monotonic()
    backbone = open_backbone("tiny")
    before = snapshot(backbone)
    rows: list[tuple[str, torch.Tensor]] = []
    unmix: list[float] = []

    class Probe(Technique):
        """Keeps the captions and regions of the rows, and the unmix term."""

        id = "checks.probe"

        @hookimpl(wrapper=True)
        def regularize(self, step: FitStep) -> Any:
            terms = yield
            for result in terms:
                for term in result if isinstance(result, list) else [result]:
                    if term.name == "localization":
                        unmix.append(float(term.value.detach().max()))
            regions = [v for k, v in sorted(step.batch.regions.items()) if k.startswith("mask.")]
            stacked = torch.stack(regions, dim=1) if regions else step.noisy[:, :0]
            rows.extend(zip(step.batch.captions, stacked, strict=True))
            return terms

    recipe = load(
        SYSTEM,
        overrides=[
            "tune.steps=8",
            'tune.lr={"*"=5e-2}',
            "tune.batch={subject=4, prior=1}",
            "regularizers.prior_preservation.count=2",
            "sample.steps=2",
            *(["weights.svd.strength=0.0", "data.cut_mix.share=0.0"] if neutral else []),
        ],
    )
    subject = pair()
    watched = replace(recipe, uses=(*recipe.uses, Use("checks.probe", Probe())))
    artifact = fit(watched, subject, backbone)[0]
    fusion = build_fusion(recipe, [subject], backbone)
    import_tensors(fusion, dict(artifact.tensors))
    slanted, lowest, least, expected = 0.0, float("inf"), float("inf"), 0
    for edit in fusion.of(WeightEdit):
        module: Any = backbone.parts[edit.site.part].get_submodule(edit.site.name)
        base = module.weight.detach()
        old = base.reshape(1, -1) if base.dim() == 1 else base.flatten(1)
        new = edit.weight(base).detach().reshape(old.shape)
        left, _, right = torch.linalg.svd(old, full_matrices=False)
        inner = left.T @ new @ right.T
        slanted = max(slanted, float((inner - inner.diagonal().diag()).abs().max()))
        lowest = min(lowest, float(inner.diagonal().min()))
        least = min(least, float((new - old).abs().max()))
        expected += min(old.shape)
    both = [
        regions for caption, regions in rows if all(c.token in caption for c in subject.concepts)
    ]
    cover = [(r.sum(0) - 1).abs().max() if len(r) == 2 else torch.tensor(1.0) for r in both]
    area = [r.mean(dim=(1, 2, 3)).min() if len(r) == 2 else torch.tensor(0.0) for r in both]
    compare = CheckRow.compare
    return CheckReport.of(
        SYSTEM,
        [
            compare("largest entry of U^T W' V off the diagonal", slanted, "<", 1e-4),
            compare("smallest singular value", lowest, ">=", -1e-5),
            compare("smallest over weights of the largest |W' - W|", least, ">", 0.0),
            compare(
                "trained numbers less the sum of min(fan in, fan out)",
                sum(t.numel() for t in artifact.tensors.values()) - expected,
                "==",
                0,
            ),
            compare("rows that name both concepts", len(both), ">", 0),
            compare(
                "their regions' largest gap or overlap", float(max(cover, default=1.0)), "<", 1e-6
            ),
            compare("their smaller region's least share", float(min(area, default=0.0)), ">", 0.3),
            compare("largest unmix term of a row", max(unmix, default=0.0), ">", 0.0),
            compare("tensors of the backbone that changed", changed(before, backbone), "==", 0),
        ],
        seconds=time.monotonic() - started,
        backbone=backbone.card.id,
        note="neutral: strength of the shifts 0, and no stitched pictures",
    )


def pair() -> Subject:
    """Return a subject of two concepts with two pictures each, told apart by captions."""
    parts: list[Any] = [random_subject("one", "dog", seed=1), random_subject("two", "cat", seed=2)]
    return Subject(
        name="pair",
        concepts=tuple(p.concept for p in parts),
        images=tuple(i for p in parts for i in p.images),
        captions=tuple(f"a photo of {p.concept.token}" for p in parts for _ in p.images),
    )
