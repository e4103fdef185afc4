"""The merger "sum": one artifact that draws what two draw together, each at its strength."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pcs_cli.main import main
from pcs_core import (
    export,
    fit,
    load,
    merge_personalizations,
    open_backbone,
    recipe_from_document,
    sample,
    save,
)
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization
from pcs_core.errors import CapabilityError, InputError
from pcs_merging.low_rank_sums import joined, of_rank
from pcs_testing import make_subject, pixels

Use = dict[str, Any]
RARE: Use = {"technique": "tokens.rare", "identifier": "sks"}
OTHER: Use = {"technique": "tokens.rare", "identifier": "zwx"}
LORA: Use = {"technique": "weights.lora", "rank": 2, "alpha": 3.0}
KEYS: Use = {"technique": "weights.lora", "name": "keys", "rank": 5, "sites": "attention.*.k"}
CONVOLUTIONS: Use = {
    **{"technique": "weights.lora", "name": "convolutions", "rank": 3},
    **{"sites": "*conv*", "kind": "conv"},
}
TEXT: Use = {
    "technique": "weights.lora",
    "name": "words",
    "part": "text",
    "sites": "*self_attn.q_proj",
}
WORD: Use = {"technique": "tokens.learnable"}
WORDS: Use = {"technique": "tokens.learnable", "vectors": 3, "with_noun": True, "init": "mixed"}
LAYERED: Use = {"technique": "tokens.layerwise"}
KV: Use = {"technique": "weights.kv"}
DRAWING: dict[str, Any] = {"steps": 3, "scale": 2.0, "seed": 3}
PROMPT = "a photo of <a> and <b>"


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return open_backbone("tiny")


@pytest.fixture(scope="module")
def fitted(tiny: Backbone) -> Callable[..., Personalization]:
    def make(token: str, noun: str, *uses: Use) -> Personalization:
        document = {
            "recipe": {"id": f"of-{noun}"},
            "use": list(uses),
            "phase": [{"name": "p", "steps": 2, "lr": 0.05}],
            "fit": {},
            "sample": {"steps": 3, "scale": 2.0},
        }
        subject = make_subject(noun, token=token, noun=noun, seed=len(noun))
        return fit(recipe_from_document(document), subject, tiny, seed=len(noun))[0]

    return make


@pytest.mark.parametrize(
    ("ours", "theirs", "strengths"),
    [
        ((RARE, LORA), (OTHER, KEYS, TEXT), {"lora": 0.7, "tiger:keys": 0.5, "tiger:words": -0.3}),
        ((RARE, LORA, CONVOLUTIONS), (OTHER, LORA), {"dog": 0.7, "tiger": 0.5}),
        ((RARE, LORA), (WORD,), {"dog": 0.7, "tiger": 0.5}),
        ((WORD,), (WORDS,), {"tiger": 0.6}),
        ((WORD,), (LAYERED,), {"tiger": 0.6}),
        ((WORD, LORA), (WORD, KV), {"dog:lora": 0.4, "tiger:kv": 0.8}),
        ((WORDS, KEYS), (OTHER, LORA, TEXT), {}),
    ],
)
def test_a_sum_draws_what_both_draw_together(
    tiny: Backbone,
    fitted: Callable[..., Personalization],
    tmp_path: Path,
    ours: tuple[Use, ...],
    theirs: tuple[Use, ...],
    strengths: Mapping[str, float],
) -> None:
    parts = [fitted("<a>", "dog", *ours), fitted("<b>", "tiger", *theirs)]
    merged = merge_personalizations(parts, tiny, method="sum", strengths=strengths)
    save(merged, tmp_path / "merged")
    stored = load(tmp_path / "merged")
    together_at = {n.removeprefix("dog:"): v for n, v in strengths.items() if n != "dog"}
    if "dog" in strengths:
        together_at |= {u.get("name", "lora"): strengths["dog"] for u in ours[1:]}
    together = sample(parts, tiny, PROMPT, strengths=together_at, **DRAWING)
    torch.testing.assert_close(sample(stored, tiny, PROMPT, **DRAWING), together, atol=1e-5, rtol=0)
    apart = sample(
        parts,
        tiny,
        PROMPT,
        strengths=dict.fromkeys(together_at, 1.0) if together_at else {},
        **DRAWING,
    )
    assert not together_at or (together - apart).abs().max() > 1e-4  # the strengths are seen
    alone = sample(parts[:1], tiny, "a photo of <a> and tiger", **DRAWING)
    assert (together - alone).abs().max() > 1e-4


def test_updates_of_one_layer_become_one_of_both_ranks(
    tiny: Backbone, fitted: Callable[..., Personalization]
) -> None:
    parts = [fitted("<a>", "dog", RARE, LORA), fitted("<b>", "tiger", OTHER, KEYS)]
    merged = merge_personalizations(parts, tiny, strengths={"dog": 0.5})
    ranks = {
        name.removeprefix("lora:denoiser").partition("/")[2]: tensor.shape[0]
        for name, tensor in merged.tensors.items()
        if name.endswith("/A")
    }
    assert {rank for name, rank in ranks.items() if ".to_k" in name} == {7}
    assert {rank for name, rank in ranks.items() if ".to_k" not in name} == {2}
    name = next(n for n in parts[1].tensors if n.endswith("/B")).partition("/")[2]
    of = [p.tensors for p in parts]
    expected = 0.5 * 1.5 * of[0][f"weights.lora/{name}"] @ of[0][f"weights.lora/{name[:-1]}A"]
    expected += of[1][f"keys/{name}"] @ of[1][f"keys/{name[:-1]}A"]
    (up,) = (t for n, t in merged.tensors.items() if n.endswith(name))
    (down,) = (t for n, t in merged.tensors.items() if n.endswith(f"{name[:-1]}A"))
    torch.testing.assert_close(up @ down, expected)
    assert merged.extra["sum"]["ranks"] == [2, 7]
    assert merged.extra["sum"]["error"] == 0
    assert merged.extra["strengths"] == {"dog:weights.lora": 0.5}
    # of strength 0 nothing is left, not even its rank
    less = merge_personalizations(parts, tiny, strengths={"dog": 0})
    assert less.extra["sum"]["ranks"] == [5]


def test_two_fits_of_one_subject_stay_one_subject(
    tiny: Backbone, fitted: Callable[..., Personalization], caplog: pytest.LogCaptureFixture
) -> None:
    """Two LoRAs of one subject, as kohya's users mix them; a learned word is of one fit alone."""
    parts = [fitted("<a>", "dog", RARE, LORA), fitted("<a>", "dog", RARE, KEYS, TEXT)]
    merged = merge_personalizations(
        parts, tiny, names=["one", "other"], strengths={"one": 0.6, "other": 0.4}
    )
    assert [c.token for c in merged.concepts] == ["<a>"]
    assert merged.extra["words"] == {"<a>": {"text": "sks dog", "noun": "dog"}}
    assert "'one' and 'other' call their subject <a> by the same words" in caplog.text
    strengths = {"lora": 0.6, "dog-2:keys": 0.4, "dog-2:words": 0.4}
    together = sample(parts, tiny, "a photo of <a>", strengths=strengths, **DRAWING)
    ours = sample(merged, tiny, "a photo of <a>", **DRAWING)
    torch.testing.assert_close(ours, together, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"'dog' and 'dog-2' share the token '<a>': .*--add B"):
        merge_personalizations([parts[0], fitted("<a>", "dog", WORD, LORA)], tiny)
    with pytest.raises(InputError, match="share the token '<a>'"):
        merge_personalizations([parts[0], fitted("<a>", "cat", RARE, LORA)], tiny)


def test_a_bound_on_the_rank_loses_what_it_says(
    tiny: Backbone, fitted: Callable[..., Personalization], caplog: pytest.LogCaptureFixture
) -> None:
    parts = [fitted("<a>", "dog", RARE, LORA), fitted("<b>", "tiger", OTHER, KEYS)]
    whole = merge_personalizations(parts, tiny)
    less = merge_personalizations(parts, tiny, rank=3)
    lost = total = 0.0
    for use in whole.recipe.uses:
        for name in [n for n in whole.tensors if n.startswith(f"{use.name}/") and n.endswith("/B")]:
            layer = name.partition("/")[2]
            exact = whole.tensors[name] @ whole.tensors[f"{name[:-1]}A"]
            (up,) = (t for n, t in less.tensors.items() if n.endswith(f"/{layer}"))
            (down,) = (t for n, t in less.tensors.items() if n.endswith(f"/{layer[:-1]}A"))
            assert up.shape[1] <= 3
            best = torch.linalg.svdvals(exact.double())[3:].square().sum()
            error = (exact - up @ down).double().square().sum()
            torch.testing.assert_close(error, best, rtol=1e-3, atol=1e-10)
            lost, total = lost + float(error), total + float(exact.square().sum())
    assert less.extra["sum"]["error"] == pytest.approx((lost / total) ** 0.5, rel=1e-3)
    assert f"differ from their sum by {less.extra['sum']['error']:.2g} of its norm" in caplog.text
    with pytest.raises(InputError, match="rank = -1: give 1 to 1024"):
        merge_personalizations(parts, tiny, rank=-1)


def test_more_ranks_than_a_layer_has_rows_are_as_many_as_it_has() -> None:
    rng = torch.Generator().manual_seed(0)
    several = [
        (torch.randn(5, 12, generator=rng), torch.randn(6, 5, generator=rng)) for _ in range(3)
    ]
    exact = sum(up @ down for down, up in several)
    (down, up), lost, total = of_rank(joined(several), 6)
    assert (down.shape, up.shape) == ((6, 12), (6, 6))
    torch.testing.assert_close(up @ down, exact)
    assert lost == 0
    assert total == pytest.approx(float(exact.square().sum()), rel=1e-5)


def test_the_sum_is_exported_as_one_lora(
    tiny: Backbone, fitted: Callable[..., Personalization], tmp_path: Path
) -> None:
    parts = [fitted("<a>", "dog", RARE, LORA), fitted("<b>", "tiger", OTHER, KEYS, TEXT)]
    merged = merge_personalizations(parts, tiny, strengths={"dog": 0.5})
    export(merged, tmp_path / "kohya", to="kohya", backbone=tiny)
    tensors = load_file(tmp_path / "kohya" / "lora.safetensors")
    updates = {n.partition(".")[0] for n in tensors}
    assert len(tensors) == 3 * len(updates)
    key = next(n for n in updates if n.endswith("attn2_to_k"))
    assert tensors[f"{key}.lora_down.weight"].shape[0] == tensors[f"{key}.alpha"] == 7
    assert "sks dog" in (tmp_path / "kohya" / "README.md").read_text()
    assert "zwx tiger" in (tmp_path / "kohya" / "README.md").read_text()


def test_two_updates_of_a_layer_in_one_recipe_are_exported_as_their_sum(
    tiny: Backbone, fitted: Callable[..., Personalization], tmp_path: Path
) -> None:
    artifact = fitted("<a>", "dog", RARE, LORA, KEYS)
    export(artifact, tmp_path / "lora", to="diffusers", backbone=tiny)
    tensors = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    name = next(n for n in artifact.tensors if n.startswith("keys/") and n.endswith("/B"))[5:]
    expected = (
        1.5
        * artifact.tensors[f"weights.lora/{name}"]
        @ artifact.tensors[f"weights.lora/{name[:-1]}A"]
    )
    expected += artifact.tensors[f"keys/{name}"] @ artifact.tensors[f"keys/{name[:-1]}A"]
    layer = f"unet.{name[:-2]}"
    product = tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
    torch.testing.assert_close(product, expected)


def test_an_update_weighed_before_is_exported_so(
    tiny: Backbone, fitted: Callable[..., Personalization], tmp_path: Path
) -> None:
    """Files of other tools, LoHa here: their strength is a number in the artifact."""
    site = next(s for s in tiny.sites if s.name.endswith("attn2.to_k")).name
    use = {"technique": "weights.imported", "name": "lora:denoiser", "kind": "loha", "sites": site}
    other = fitted("<b>", "tiger", OTHER, LORA)
    imported = fitted("<a>", "dog", RARE, use)
    tensors = {**imported.tensors}
    name = next(n for n in tensors if n.endswith("hada_w2_a"))
    tensors[name] = torch.ones_like(tensors[name])
    tensors |= {
        f"{name.rpartition('/')[0]}/{key}": torch.tensor(1.0) for key in ("scale", "strength")
    }
    imported = replace(imported, tensors=tensors)
    parts = [imported, other]
    merged = merge_personalizations(parts, tiny, strengths={"dog": 0.5})
    together = sample(parts, tiny, PROMPT, strengths={"lora:denoiser": 0.5}, **DRAWING)
    torch.testing.assert_close(sample(merged, tiny, PROMPT, **DRAWING), together, atol=1e-5, rtol=0)
    alone = merge_personalizations(parts, tiny, strengths={"dog": 0.5, "tiger": 0})
    export(alone, tmp_path / "kohya", to="kohya", backbone=tiny)
    written = load_file(tmp_path / "kohya" / "lora.safetensors")
    (alpha,) = (t for n, t in written.items() if n.endswith(".alpha"))
    assert float(alpha) == pytest.approx(0.5 * 4)
    with pytest.raises(CapabilityError, match="two updates of"):
        export(merged, tmp_path / "no", to="kohya", backbone=tiny)


def test_what_cannot_be_added_up_is_refused(
    tiny: Backbone, fitted: Callable[..., Personalization]
) -> None:
    lora = fitted("<a>", "dog", RARE, LORA)
    more = fitted("<b>", "tiger", WORD, {"technique": "weights.key_locked", "captions": 200})
    with pytest.raises(InputError, match=r"'tiger': what the use 'weights.key_locked' .* --add B"):
        merge_personalizations([lora, more], tiny)
    mapped = fitted("<b>", "tiger", {"technique": "tokens.spectrum", "inner": 8})
    with pytest.raises(InputError, match=r"'tiger': what the use 'tokens.spectrum'"):
        merge_personalizations([lora, mapped], tiny)
    bad = fitted("<b>", "tiger", WORD, {"technique": "tokens.negative"})
    with pytest.raises(
        InputError, match=r"'tiger': tokens.negative learns words for every concept"
    ):
        merge_personalizations([lora, bad], tiny)
    other = fitted("<b>", "tiger", OTHER, LORA)
    with pytest.raises(InputError, match="nothing of the artifacts is left"):
        merge_personalizations([lora, other], tiny, strengths={"dog": 0, "tiger": 0})
    with pytest.raises(
        InputError, match=r"unknown strength 'tiger:lra', did you mean 'tiger:lora'"
    ):
        merge_personalizations([lora, other], tiny, strengths={"tiger:lra": 1})
    with pytest.raises(InputError, match=r"unknown strength 'tigre', did you mean 'tiger'\?"):
        merge_personalizations([lora, other], tiny, strengths={"tigre": 1})
    with pytest.raises(InputError, match="strength tiger=nan: give a finite number"):
        merge_personalizations([lora, other], tiny, strengths={"tiger": float("nan")})
    with pytest.raises(InputError, match="names: 1 of 2"):
        merge_personalizations([lora, other], tiny, names=["one"])


def test_the_command(
    tiny: Backbone,
    fitted: Callable[..., Personalization],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    import numpy as np
    from PIL import Image

    for name, artifact in (
        ("ann", fitted("<a>", "dog", RARE, LORA)),
        ("bob", fitted("<b>", "tiger", WORD)),
    ):
        save(artifact, tmp_path / name)
    both = [str(tmp_path / "ann"), str(tmp_path / "bob")]
    strengths = ["--strength", "ann=0.7", "--strength", "bob=0.5"]
    out = ["--device", "cpu", "--out"]
    assert (
        main(["merge", *both, *strengths, "--no-preview", "--json", *out, str(tmp_path / "c")]) == 0
    )
    facts = json.loads(capfd.readouterr().out)
    assert facts["method"] == "sum"
    assert facts["tokens"] == ["<a>", "<b>"]
    assert facts["strengths"] == {"ann:weights.lora": 0.7, "bob:tokens.learnable": 0.5}
    drawing = ["-n", "1", "--seed", "7", *out]
    assert main(["sample", str(tmp_path / "c"), PROMPT, *drawing, str(tmp_path / "one")]) == 0
    words = ["sample", both[0], "--add", both[1], *strengths, PROMPT]
    assert main([*words, *drawing, str(tmp_path / "two")]) == 0
    one, two = (np.array(Image.open(tmp_path / n / "000.png"), int) for n in ("one", "two"))
    assert abs(one - two).max() <= 1  # a rounding of 8 bits
    assert (
        main(["sample", both[0], "--add", both[1], PROMPT, *drawing, str(tmp_path / "three")]) == 0
    )
    assert pixels(tmp_path / "three" / "000.png") != pixels(tmp_path / "two" / "000.png")
