"""Fused layers answer every concept's own inputs as well as one matrix can."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pcs_core import fit, load, merge_personalizations, recipe_from_document, sample, save
from pcs_core.backbone import Attachment, Backbone, import_tensors, tokenise
from pcs_core.data import TokenEdit
from pcs_core.errors import InputError
from pcs_engine.restoring import restored
from pcs_testing import Snapshot, build_fusion, make_subject
from pcs_weights.gradient_fusion import solve
from pcs_weights.gradient_fusion_inputs import listening, up_to_the_end
from pcs_weights.gradient_fusion_merge import (
    deltas_of,
    prompts_of,
    record_drawing,
    record_encoder,
    record_words,
    stages,
    stand_in,
)

FEW: dict[str, Any] = {"method": "gradient-fusion", "iterations": 30, "spatial_iterations": 10}
TEXT = {"technique": "weights.lora", "name": "words", "part": "text", "sites": "*self_attn.q_proj"}


def fitted(backbone: Backbone, *uses: dict[str, Any]) -> list[Any]:
    recipe = recipe_from_document(
        {
            "recipe": {"id": "two"},
            "use": [{"technique": "tokens.learnable"}, *uses],
            "phase": [{"name": "p", "steps": 2, "lr": 0.05}],
            "fit": {},
            "sample": {"steps": 2, "scale": 2.0},
        }
    )
    subjects = [
        make_subject("a", token="<a>", noun="dog", seed=1),
        make_subject("b", token="<b>", noun="cat", seed=2),
    ]
    return fit(recipe, subjects, backbone)


def test_the_search_finds_the_closed_form() -> None:
    rng = torch.Generator().manual_seed(0)
    xs = [torch.randn(40, 6, generator=rng) for _ in range(2)]
    ds = [torch.randn(5, 6, generator=rng) for _ in range(2)]
    grams = [x.T @ x for x in xs]
    exact = (ds[0] @ grams[0] + ds[1] @ grams[1]) @ torch.linalg.inv(grams[0] + grams[1])
    torch.testing.assert_close(solve(grams, ds, 200), exact, rtol=1e-4, atol=1e-5)
    for size in (1e-8, 1e8):  # how much was recorded changes nothing
        scaled = [g * size for g in grams]
        torch.testing.assert_close(solve(scaled, ds, 200), exact, rtol=1e-4, atol=1e-5)
    rough = solve(grams, ds, 2)
    assert (rough - exact).abs().max() > 1e-4


def test_inputs_that_do_not_meet_keep_both_updates() -> None:
    rng = torch.Generator().manual_seed(0)
    ds = [torch.randn(3, 4, generator=rng) for _ in range(2)]
    xs = torch.eye(4)[:2], torch.eye(4)[2:]
    solution = solve([x.T @ x for x in xs], ds, 100)
    for x, d in zip(xs, ds, strict=True):
        torch.testing.assert_close(x @ solution.T, x @ d.T, rtol=1e-4, atol=1e-5)


def test_a_fusion_is_an_artifact_of_both(backbone: Backbone, tmp_path: Any) -> None:
    before = Snapshot(backbone)
    artifacts = fitted(backbone, {"technique": "weights.lora"}, TEXT)
    merged = merge_personalizations(artifacts, backbone, steps=1, **FEW)
    before.assert_unchanged()
    assert [c.token for c in merged.concepts] == ["<a>", "<b>"]
    owners = {name.split("/")[0] for name in merged.tensors}
    assert owners == {"tokens.learnable", "weights.gradient_fusion"}
    layers = {name.split("/")[1] for name in merged.tensors if name.endswith("/delta")}
    assert layers == {layer for _, layer in deltas_of(artifacts[0])}
    save(merged, tmp_path / "both")
    drawn = sample(merged, backbone, "a <a> and a <b>", seed=1)
    assert torch.equal(drawn, sample(load(tmp_path / "both"), backbone, "a <a> and a <b>", seed=1))
    assert (drawn - sample(artifacts[0], backbone, "a <a> and a <b>", seed=1)).abs().max() > 1e-4


def test_what_it_would_lose_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="tensors of the use 'weights.kv'"):
        merge_personalizations(fitted(backbone, {"technique": "weights.kv"}), backbone, **FEW)
    with pytest.raises(InputError, match=r"has no weights\.lora"):
        merge_personalizations(fitted(backbone), backbone, **FEW)


def test_listening_leaves_nothing_behind(backbone: Backbone) -> None:
    before = Snapshot(backbone)
    name = next(s.name for s in backbone.sites if s.name.endswith("attn2.to_k"))
    with listening(backbone, [("denoiser", name)]) as grams:
        layer = backbone.parts["denoiser"].get_submodule(name)
        x = torch.randn(2, 3, 32)
        layer(x)
    rows = x.reshape(-1, 32).double()
    torch.testing.assert_close(grams["denoiser", name], rows.T @ rows)
    before.assert_unchanged()
    assert not layer._forward_pre_hooks


CROSS = {"technique": "weights.lora", "sites": "attention.*.q|attention.*.k|attention.*.v"}


def encoded(backbone: Backbone, artifact: Any, prompts: list[str]) -> tuple[Any, Any]:
    """Return tokenised prompts and their texts by ``artifact``'s own encoder, written without the merger."""
    fusion = build_fusion(artifact.recipe, [make_subject("a", token="<a>")], backbone)
    import_tensors(fusion, dict(artifact.tensors))
    tokenised = tokenise(
        prompts, backbone.tokenizer, tokens=fusion.of(TokenEdit), concepts=[["<a>"]]
    )
    with torch.no_grad(), Attachment(backbone, fusion) as net:
        return tokenised, net.encode_text(
            tokenised, torch.zeros(len(prompts), dtype=torch.long)
        ).text


def test_padding_is_no_input_of_the_text_encoder(backbone: Backbone) -> None:
    """The authors' encoder is shown prompts without padding; the mean over 77 positions is nearly all of it."""
    ids = torch.tensor([[1, 5, 6, 2, 2, 2], [1, 2, 2, 2, 2, 2]])
    shown = up_to_the_end(ids, 2)
    assert shown.tolist() == [[True] * 4 + [False] * 2, [True] * 2 + [False] * 4]
    artifact = fitted(backbone, {"technique": "weights.lora"}, TEXT)[0]
    layer = next(layer for layer in deltas_of(artifact) if layer[0] == "text")
    actual = record_encoder(artifact, backbone, [layer], 1, 0)[layer]
    heard: list[torch.Tensor] = []
    module = backbone.parts["text"].get_submodule(layer[1])
    hook = module.register_forward_pre_hook(lambda _, x: heard.append(x[0].detach()))
    tokenised, _ = encoded(backbone, artifact, prompts_of(artifact))
    hook.remove()
    ends = [row.index(backbone.tokenizer.end) for row in tokenised.ids.tolist()]
    rows = torch.cat([x[: end + 1] for x, end in zip(heard[0], ends, strict=True)]).double()
    assert len(rows) < tokenised.ids.numel() / 3
    torch.testing.assert_close(actual, rows.T @ rows, rtol=1e-6, atol=1e-6)


def test_keys_and_values_read_words_of_the_fused_encoder(backbone: Backbone) -> None:
    """At the concept's words and the end of the prompt alone, said by the encoder as it is after the fusion."""
    artifact = fitted(backbone, CROSS, TEXT)[0]
    deltas = deltas_of(artifact)
    encoder, words, _ = (layers for layers, _, _ in stages(deltas, backbone, 1, 1))
    assert encoder
    assert words
    rng = torch.Generator().manual_seed(0)
    fused = {layer: torch.randn(deltas[layer].shape, generator=rng) for layer in encoder}
    changed = stand_in(artifact, deltas, fused)
    actual = record_words(changed, backbone, words, 1, 0)
    tokenised, texts = encoded(backbone, changed, prompts_of(artifact))
    rows = []
    for text, ids, span in zip(
        texts, tokenised.ids.tolist(), tokenised.spans["concept.0"], strict=True
    ):
        rows += [text[span], text[ids.index(backbone.tokenizer.end)][None]]
    x = torch.cat(rows).double()
    assert len(x) == 2 * (1 + 1)
    for layer in words:
        torch.testing.assert_close(actual[layer], x.T @ x, rtol=1e-5, atol=1e-5)
    _, alone = encoded(backbone, artifact, prompts_of(artifact))
    assert (alone - texts).abs().max() > 1e-3  # the personalization's own encoder says other words


def test_the_last_stage_draws_with_what_is_fused_and_its_own_updates(backbone: Backbone) -> None:
    artifact = fitted(backbone, CROSS, TEXT)[0]
    deltas = deltas_of(artifact)
    _, words, others = (layers for layers, _, _ in stages(deltas, backbone, 1, 1))
    fused = {layer: torch.ones_like(deltas[layer]) for layer in words}
    changed = stand_in(artifact, deltas, fused)
    seen = deltas_of(changed)
    assert all(not seen[layer].any() for layer in words)
    assert all(torch.equal(seen[layer], deltas[layer]) for layer in others)
    at = [changed.tensors[f"weights.gradient_fusion/{name}/delta"] for _, name in words]
    assert all(bool((delta == 1).all()) for delta in at)
    before, after = (
        record_drawing(p, backbone, others, 2, 0)[others[-1]] for p in (artifact, changed)
    )
    assert (before - after).abs().max() > 1e-3


def test_every_row_counts_alike(backbone: Backbone) -> None:
    """The authors stack the rows of all concepts: no call is divided by its length."""
    name = next(s.name for s in backbone.sites if s.name.endswith("attn2.to_k"))
    with listening(backbone, [("denoiser", name)]) as grams:
        layer = backbone.parts["denoiser"].get_submodule(name)
        xs = torch.randn(1, 2, 32), torch.randn(1, 7, 32)
        for x in xs:
            layer(x)
    rows = torch.cat([x[0] for x in xs]).double()
    torch.testing.assert_close(grams["denoiser", name], rows.T @ rows)


def of_words(backbone: Backbone, token: str, noun: str, identifier: str) -> Any:
    recipe = recipe_from_document(
        {
            "recipe": {"id": "rare"},
            "use": [
                {"technique": "tokens.rare", "identifier": identifier},
                {"technique": "weights.lora"},
            ],
            "phase": [{"name": "p", "steps": 1, "lr": 0.05}],
            "fit": {},
            "sample": {"steps": 2, "scale": 2.0},
        }
    )
    subject = make_subject(token.strip("<>"), token=token, noun=noun, seed=1)
    return fit(recipe, subject, backbone)[0]


def words_of(artifact: Any, backbone: Backbone) -> dict[str, str]:
    with restored(artifact, backbone, 0) as (_, fusion):
        return {word.token: word.text for word in fusion.words}


def test_a_fused_token_stands_for_the_words_of_its_own_fit(
    backbone: Backbone, tmp_path: Any
) -> None:
    pair = [
        of_words(backbone, "<one>", "dog", "sks"),
        of_words(backbone, "<two>", "cat", "zwx"),
    ]
    merged = merge_personalizations(pair, backbone, steps=1, **FEW)
    save(merged, tmp_path / "both")
    said = {"<one>": "sks dog", "<two>": "zwx cat"}
    assert words_of(merged, backbone) == words_of(load(tmp_path / "both"), backbone) == said
    # an artifact that was merged before says nothing of words, and means what its recipe makes of them
    old = replace(merged, extra={k: v for k, v in merged.extra.items() if k != "words"})
    assert words_of(old, backbone) == {"<one>": "sks dog", "<two>": "sks2 cat"}


def test_one_word_for_two_subjects_is_refused_and_a_shared_identifier_said(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    one = of_words(backbone, "<one>", "dog", "sks")
    with pytest.raises(InputError, match=r"both stand for 'sks dog'.*another identifier"):
        merge_personalizations(
            [one, of_words(backbone, "<two>", "dog", "sks")], backbone, steps=1, **FEW
        )
    with caplog.at_level("WARNING", "pcs"):
        merge_personalizations(
            [one, of_words(backbone, "<two>", "cat", "sks")], backbone, steps=1, **FEW
        )
    assert "'<one>' and '<two>' share the identifier 'sks'" in caplog.text
