"""Is what is faster good enough? Its pictures against eager ones of the same seeds, in pairs.

The bounds hold on the lower end of a bootstrap interval (``pcs_acceleration.gate``), over pairs of a subject
and a prompt. What is not judged is not called usable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from inference.artifacts import Judge, Prepared, prompts_of, untuned_prompt
from pcs_acceleration.gate import FEWEST, psnr
from pcs_acceleration.gate import judge as verdict_on

if TYPE_CHECKING:
    from torch import Tensor

    from pcs_core.data import Personalization

Draw = Callable[["Personalization", str, int, int], "Tensor"]
"""(artifact, prompt, count, seed) -> pictures [count 3 h w]."""
INT8_BOUNDS: Mapping[str, float] = {
    "identity": 0.02,
    "alignment": 0.02,
    "psnr": 25.0,
    "cost": 1.0,
}
"""What INT8 may lose at most: cosine to the references, cosine to the prompt, and dB to the eager picture."""


def compare(
    draws: tuple[Draw, Draw],
    prepared: Prepared,
    judge: Judge,
    bounds: Mapping[str, float],
    *,
    prompts: int,
    count: int,
    cost: float = 1.0,
) -> dict[str, Any]:
    """Draw every subject at every prompt both ways (eager first), and judge the pairs."""
    losses: dict[str, list[float]] = {"identity": [], "psnr": []}
    similar: list[float] = []
    for number, (artifact, subject) in enumerate(
        zip(prepared.artifacts, prepared.subjects, strict=True)
    ):
        identity = judge.identity(subject.images)
        for index, prompt in enumerate(prompts_of(artifact)[:prompts]):
            seed = 1000 * number + 10 * index
            plain, new = (draw(artifact, prompt, count, seed) for draw in draws)
            losses["psnr"].append(float(psnr(new, plain).mean()))
            before = float(identity(plain).mean())
            similar.append(before)
            losses["identity"].append(float(identity(new).mean()) - before)
            text = judge.text([untuned_prompt(prompt, artifact)] * count)
            if text is not None:
                gap = float((text(new) - text(plain)).mean())
                losses.setdefault("alignment", []).append(gap)
    return {
        "system": prepared.recipe.id,
        "personalizations": prepared.note,
        "judge": judge.name,
        "subjects": len(prepared.artifacts),
        "pictures": len(similar) * count,
        "bounds": dict(bounds),
        "eager_similarity": sum(similar) / max(1, len(similar)),
        **verdict(losses, bounds, cost, trained=prepared.trained),
    }


def verdict(
    losses: Mapping[str, Sequence[float]],
    bounds: Mapping[str, float],
    cost: float,
    *,
    trained: bool,
) -> dict[str, Any]:
    """Return ``usable`` and why not: a loss beyond its bound, too few pairs, or weights without training."""
    pairs = len(losses["identity"])
    reasons = []
    if not trained:
        reasons.append("the weights are not trained: pictures of them say nothing of quality")
    if pairs < FEWEST:
        reasons.append(f"{pairs} pairs of subject and prompt, {FEWEST} at least are needed")
        means = {k: {"mean": float(torch.tensor(v).mean())} for k, v in losses.items() if v}
        return {"usable": False, "reasons": reasons, "pairs": pairs, "scores": means}
    judged = verdict_on(bounds, losses, cost)
    facts = judged.plain()
    return {
        "usable": judged.passed and not reasons,
        "reasons": [*reasons, *judged.reasons],
        "pairs": pairs,
        "scores": facts["scores"],
        "cost": cost,
    }
