"""What is said of the words around a learned one, against the class word's prompt, by formulas of this file."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcs_core import Technique, fit, hookimpl
from pcs_core.backbone import Attachment, Backbone, import_tensors, tokenise
from pcs_core.data import Fusion, Phase, TokenEdit
from pcs_engine.run import EngineRun
from pcs_regularizers.context import Context
from pcs_testing import build_fusion, make_recipe, make_subject
from pcs_tokens.learnable import LearnableToken

PROMPT = "a photo of {token} on the beach"
FRONT, BEHIND = 4, 4
"""Start and "a photo of"; "on the beach" and the end."""


def losses(
    backbone: Backbone, *, vectors: int = 2, batch: int = 2, **settings: Any
) -> tuple[dict[str, float], torch.Tensor]:
    """Return the terms of one step that moves nothing, and the rows [n d]."""
    token = LearnableToken(vectors=vectors, noise=0.8)
    context = Context(prompts=(PROMPT,), **{"weight": 1.0, "attention": 0.0, **settings})
    phase = Phase("p", 1, batch={"subject": batch}, lr={"*": 1e-30})
    (artifact,) = fit(make_recipe([token, context], phase), make_subject(), backbone)
    (rows,) = artifact.tensors.values()
    return artifact.losses, rows


@torch.no_grad()
def said(backbone: Backbone, vectors: int, rows: torch.Tensor | None) -> torch.Tensor:
    """Return what the encoder says of the prompt [l d], with learned rows or with the noun."""
    if rows is None:
        with Attachment(backbone, Fusion()) as net:
            text = PROMPT.replace("{token}", "dog")
            return net.encode_text(tokenise([text], backbone.tokenizer)).text[0].double()
    recipe = make_recipe([LearnableToken(vectors=vectors)])
    fusion = build_fusion(recipe, [make_subject()], backbone)
    import_tensors(fusion, {"tokens.learnable/<fido>/rows": rows})
    with Attachment(backbone, fusion) as net:
        text = PROMPT.replace("{token}", "<fido>")
        prompts = tokenise([text], backbone.tokenizer, tokens=fusion.of(TokenEdit))
        return net.encode_text(prompts, torch.zeros(1, dtype=torch.long)).text[0].double()


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each row."""
    return (a * b).sum(1) / ((a**2).sum(1) * (b**2).sum(1)) ** 0.5


@pytest.mark.parametrize("distance", ["channels", "words", "norm"])
@pytest.mark.parametrize("where", ["around", "before", "after"])
def test_its_value_is_the_papers(backbone: Backbone, distance: Any, where: Any) -> None:
    terms, rows = losses(backbone, distance=distance, where=where, weight=0.5)
    ours, theirs = said(backbone, 2, rows), said(backbone, 2, None)
    front = [ours[:FRONT], theirs[:FRONT]]
    behind = [ours[FRONT + 2 :][:BEHIND], theirs[FRONT + 1 :][:BEHIND]]
    parts = {"around": [front, behind], "before": [front], "after": [behind]}[where]
    a, b = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    expected = {
        "channels": 1 - cosine(a.T, b.T).mean(),
        "words": 1 - cosine(a, b).mean(),
        "norm": ((a - b) ** 2).sum() ** 0.5,
    }[distance]
    assert terms["context"] == pytest.approx(0.5 * float(expected), rel=1e-3, abs=1e-6)
    assert "context_attention" not in terms


def test_padding_counts_where_it_is_asked_for(backbone: Backbone) -> None:
    terms, rows = losses(backbone, distance="norm", where="after", padding=True)
    ours, theirs = said(backbone, 2, rows), said(backbone, 2, None)
    a, b = ours[FRONT + 2 :], theirs[FRONT + 1 : -1]
    assert len(a) == len(b) > BEHIND
    assert terms["context"] == pytest.approx(float((a - b).norm()), rel=1e-3)


def test_where_the_word_is_the_noun_there_is_nothing_to_say(backbone: Backbone) -> None:
    token, context = LearnableToken(), Context(prompts=(PROMPT,), weight=1.0, attention=1.0)
    phase = Phase("p", 1, lr={"*": 1e-30})
    (artifact,) = fit(make_recipe([token, context], phase), make_subject(), backbone)
    assert artifact.losses["context"] == pytest.approx(0.0, abs=1e-5)
    assert artifact.losses["context_attention"] == pytest.approx(0.0, abs=1e-10)


def test_attention_is_compared_by_each_words_share(backbone: Backbone) -> None:
    steps: list[dict[str, Any]] = []

    class Spy(Technique):
        id = "test.spy"

        @hookimpl
        def regularize(self, run: Any, step: Any) -> None:
            names = [s.name for s in run.sites("cross")]
            tapes = []
            with torch.no_grad():
                for word in ("<fido>", "dog"):
                    cond = step.encode(PROMPT.replace("{token}", word))
                    tapes.append(step.evaluate(step.noisy, step.level, cond, record=names).tape)
            steps.append({"names": names, "tapes": tapes})

    token = LearnableToken(vectors=2, noise=0.8)
    context = Context(prompts=(PROMPT,), weight=0.0, attention=3.0)
    phase = Phase("p", 1, batch={"subject": 3}, lr={"*": 1e-30})
    (artifact,) = fit(make_recipe([token, context, Spy()], phase), make_subject(), backbone)
    (seen,) = steps
    total = 0.0
    for name in seen["names"]:
        ours, theirs = (tape[name].double().mean(dim=(1, 2)) for tape in seen["tapes"])
        a = torch.cat([ours[:, :FRONT], ours[:, FRONT + 2 : FRONT + 2 + BEHIND]], 1)
        b = torch.cat([theirs[:, :FRONT], theirs[:, FRONT + 1 : FRONT + 1 + BEHIND]], 1)
        total += float(((a - b) ** 2).mean())
    expected = 3.0 * total / len(seen["names"])
    assert expected > 0
    assert artifact.losses["context_attention"] == pytest.approx(expected, rel=1e-3)
    assert "context" not in artifact.losses


def test_its_gradient_reaches_the_rows_alone_and_brings_the_context_back(
    backbone: Backbone,
) -> None:
    token = LearnableToken(vectors=1, noise=0.8)
    context = Context(prompts=(PROMPT,), weight=1.0, attention=0.0, distance="words")
    values = []
    for steps in (1, 30):
        phase = Phase("p", steps, lr={"*": 0.01}, losses=("context",))
        (artifact,) = fit(make_recipe([token, context], phase), make_subject(), backbone)
        values.append(artifact.losses["context"])
    assert values[1] < 0.5 * values[0]


def test_prompts_are_drawn_anew_in_each_step_and_alone_as_among_others(backbone: Backbone) -> None:
    token, context = LearnableToken(noise=0.8), Context(weight=1.0, attention=1.0)
    phase = Phase("p", 4, lr={"*": 0.01}, losses=("context*",))
    subjects = [
        make_subject("a", token="<a>", noun="dog"),
        make_subject("b", token="<b>", noun="car"),
    ]
    recipe = make_recipe([token, context], phase)
    together = fit(recipe, subjects, backbone)
    for subject, artifact in zip(subjects, together, strict=True):
        (alone,) = fit(recipe, subject, backbone)
        (rows,), (apart,) = artifact.tensors.values(), alone.tensors.values()
        torch.testing.assert_close(rows, apart, rtol=1e-4, atol=1e-6)
    prompts = set()
    run = EngineRun(recipe, backbone, concepts=[s.concepts for s in subjects], names=["a", "b"])
    for index in range(30):
        step: Any = type("S", (), {"phase": "p", "index": index})()
        step.batch = type("B", (), {"subject": torch.tensor([0, 1])})()
        drawn = context._drawn(run, step)
        prompts |= {drawn[s][2] for s in drawn}
    assert len(prompts) > 20
