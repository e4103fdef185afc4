"""The constrained least squares of the closed-form merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_core import fit, load, merge_personalizations, recipe_from_document, sample, save
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization, Phase
from pcs_core.errors import InputError
from pcs_testing import make_recipe, make_subject
from pcs_testing.probe import Probe
from pcs_weights.closed_form_merge import solve


def problem(targets: int = 3, width: int = 8, out: int = 5) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(out, width, generator=rng)
    features = torch.randn(targets, width, generator=rng)
    values = torch.randn(targets, out, generator=rng)
    return base, features, values, torch.randn(40, width, generator=rng)


def test_the_targets_are_met_and_nothing_nearer_meets_them() -> None:
    base, targets, values, regular = problem()
    delta = solve(base, targets, values, regular, 1e-9)
    torch.testing.assert_close(targets @ (base + delta).T, values, rtol=1e-4, atol=1e-4)
    # any other solution differs by rows orthogonal to the targets, and moves the rest more
    _, _, right = torch.linalg.svd(targets)
    cost = (regular @ delta.T).norm()
    for direction in right[3:]:
        for sign in (-0.1, 0.1):
            other = delta + sign * torch.outer(torch.ones(5), direction)
            torch.testing.assert_close(targets @ (base + other).T, values, rtol=1e-3, atol=1e-3)
            assert (regular @ other.T).norm() > cost


def test_nothing_asked_is_nothing_changed() -> None:
    base, targets, _, regular = problem()
    assert solve(base, targets, targets @ base.T, regular, 1e-9).abs().max() < 1e-5


def test_repeated_targets_do_not_blow_up() -> None:
    base, targets, values, regular = problem()
    doubled = solve(base, targets.repeat(2, 1), values.repeat(2, 1), regular, 1e-9)
    torch.testing.assert_close(
        doubled, solve(base, targets, values, regular, 1e-9), rtol=1e-3, atol=1e-3
    )


def test_what_has_no_deltas_does_not_merge(backbone: Backbone) -> None:
    subjects = [make_subject("a", token="<a>"), make_subject("b", token="<b>")]
    artifacts = fit(make_recipe([Probe()], Phase("p", 1)), subjects, backbone)
    with pytest.raises(InputError, match=r"no key/value deltas.*--method sum"):
        merge_personalizations(artifacts, backbone, method="closed-form")


def artifact(
    backbone: Backbone,
    name: str,
    *extra: dict[str, Any],
    word: dict[str, Any] | None = None,
    kv: dict[str, Any] | None = None,
) -> Personalization:
    uses = [
        {"technique": "tokens.learnable", **(word or {})},
        {"technique": "weights.kv", **(kv or {})},
        *extra,
    ]
    document = {
        "recipe": {"id": "two"},
        "use": uses,
        "phase": [{"name": "p", "steps": 2, "lr": 1e-2}],
        "sample": {"steps": 1, "scale": 1.0},
    }
    subject = make_subject(name, token=f"<{name}>", seed=len(name))
    return fit(recipe_from_document(document), subject, backbone)[0]


@pytest.mark.parametrize("method", ["closed-form", "average"])
def test_uses_may_have_other_names(backbone: Backbone, tmp_path: Path, method: str) -> None:
    plain = [artifact(backbone, "a"), artifact(backbone, "bb")]
    named = [
        artifact(backbone, "a", word={"name": "word"}, kv={"name": "kv"}),
        artifact(backbone, "bb", word={"name": "other"}, kv={"name": "deltas"}),
    ]
    merged, expected = (merge_personalizations(p, backbone, method=method) for p in (named, plain))
    assert {n.split("/")[0] for n in merged.tensors} == {"word", "weights.merge"}
    assert {n.split("/")[1] for n in merged.tensors if n.startswith("word/")} == {"<a>", "<bb>"}
    assert set(merged.tensors) == {
        n.replace("tokens.learnable/", "word/") for n in expected.tensors
    }
    save(merged, tmp_path / "merged")
    loaded = load(tmp_path / "merged")
    prompt = "a photo of <a> beside <bb>"
    first, second = (sample(p, backbone, prompt, seed=1) for p in (merged, loaded))
    assert torch.equal(first, second)


def test_a_merge_holds_the_sites_and_parts_that_were_trained(backbone: Backbone) -> None:
    kv = {"sites": "mid_block*attn2", "parts": ["k"]}
    merged = merge_personalizations(
        [artifact(backbone, "a", kv=kv), artifact(backbone, "bb", kv=kv)], backbone
    )
    deltas = {n: t for n, t in merged.tensors.items() if n.startswith("weights.merge/")}
    assert all("mid_block" in n for n in deltas)
    assert {n.rsplit("/", 1)[1]: bool(t.abs().max() > 0) for n, t in deltas.items()} == {
        "k": True,
        "v": False,
    }
    sample(merged, backbone, "a <a> and a <bb>")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"word": {"vectors": 2}}, ["'bb'", "'tokens.learnable'", "vectors = 2", "'a' has 1"]),
        ({"word": {"with_noun": True, "name": "word"}}, ["'bb'", "'word'", "with_noun = True"]),
        ({"kv": {"parts": ["q", "k", "v"], "name": "kv"}}, ["'bb'", "'kv'", "'q'"]),
        ({"kv": {"sites": "mid_block*attn2"}}, ["different sites"]),
        ({"extra": {"technique": "weights.lora", "name": "low"}}, ["'bb'", "'low'", "lost"]),
    ],
)
def test_what_a_merge_would_lose_is_refused(
    backbone: Backbone, change: dict[str, Any], words: list[str]
) -> None:
    extra = [change["extra"]] if "extra" in change else []
    rest = {key: value for key, value in change.items() if key != "extra"}
    first, second = artifact(backbone, "a"), artifact(backbone, "bb", *extra, **rest)
    with pytest.raises(InputError) as caught:
        merge_personalizations([first, second], backbone)
    assert all(w in str(caught.value) for w in words), str(caught.value)


def test_deltas_that_do_not_read_the_text_are_refused(backbone: Backbone) -> None:
    kv = {"sites": "attention"}
    artifacts = [artifact(backbone, "a", kv=kv), artifact(backbone, "bb", kv=kv)]
    with pytest.raises(InputError, match="'a' has a delta at .*no cross attention"):
        merge_personalizations(artifacts, backbone)


def test_where_a_token_started_does_not_matter(backbone: Backbone) -> None:
    merge_personalizations(
        [artifact(backbone, "a"), artifact(backbone, "bb", word={"init": "random", "noise": 0.1})],
        backbone,
    )
