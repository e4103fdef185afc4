"""How the results of a hook become one, and which clashes are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pcs_core.data import (
    AttnEdit,
    AttnState,
    Batch,
    Branch,
    Conditioning,
    Example,
    Features,
    Fusion,
    GuidanceTerm,
    HeadEdit,
    Loss,
    Masks,
    ReplaceEdit,
    Row,
    Site,
    StreamEdit,
    TokenEdit,
    WeightEdit,
    Word,
)
from pcs_core.errors import ConflictError
from pcs_core.merge import (
    flatten_losses,
    merge_features,
    merge_fusions,
    merge_masks,
    reduce_loss,
)

SITE = Site("block.to_k", "denoiser", "linear", shape=(4, 4))
DRAW = lambda *_: (None, None)  # noqa: E731
ATTENTION = Site("block", "denoiser", "cross", width=4, context=4)


def masks(**values: float) -> Masks:
    return Masks({k: torch.full((2, 1, 2, 2), v) for k, v in values.items()})


def test_masks_of_one_key_multiply_and_new_keys_join() -> None:
    merged = merge_masks([masks(loss=0.5, fg=1.0), masks(loss=0.5, bg=0.25)])
    assert {k: float(v.mean()) for k, v in merged.by_name.items()} == {
        "loss": 0.25,
        "fg": 1.0,
        "bg": 0.25,
    }


def test_the_users_masks_replace_those_of_techniques() -> None:
    given = {"loss": torch.ones(2, 1, 2, 2)}
    merged = merge_masks([masks(loss=0.5, fg=0.5)], given)
    assert float(merged.by_name["loss"].mean()) == 1.0
    assert float(merged.by_name["fg"].mean()) == 0.5


def test_features_join_in_order_and_captions_are_kept_once() -> None:
    image = torch.zeros(3, 2, 2)
    merged = merge_features(
        [
            ("a", Features(tensors={"x": image}, captions=("one", "two"), keep=("x",))),
            ("b", Features(tensors={"y": image}, captions=("two", "three"))),
            ("c", Features(examples=(Example(image, ("c",)),))),
        ]
    )
    assert list(merged.tensors) == ["x", "y"]
    assert merged.captions == ("one", "two", "three")
    assert merged.origin == {"x": "a", "y": "b"}
    assert [e.captions for e in merged.examples] == [("c",)]
    assert merged.keep == ("x",)


def test_features_of_one_key_conflict_by_name() -> None:
    one = Features(tensors={"clip.image": torch.zeros(1)})
    with pytest.raises(ConflictError, match=r"'clip\.image'.*'left'.*'right'"):
        merge_features([("left", one), ("right", one)])


class Replace(WeightEdit):
    def weight(self, weight: torch.Tensor) -> torch.Tensor:
        return weight


class Wrap(WeightEdit):
    def call(self, layer: Any, x: torch.Tensor, cond: Conditioning | None) -> torch.Tensor:
        return layer(x)


class Add(WeightEdit):
    def residual(self, x: Any, y: torch.Tensor, cond: Conditioning | None) -> torch.Tensor:
        return y


class Rewrite(AttnEdit):
    claims = ("probs",)

    def probs(self, state: AttnState, cond: Conditioning) -> AttnState:
        return state


class Rows(TokenEdit):
    def __init__(self, *tokens: str) -> None:
        super().__init__(tokens, count=1, hosts=["dog"])

    def vocabulary(self) -> torch.Tensor:
        return torch.zeros(1, 1, 4)


def swap() -> ReplaceEdit:
    return ReplaceEdit("denoiser", {"block.to_k.weight": nn.Parameter(torch.zeros(4, 4))})


def test_edits_concatenate_in_recipe_order_with_their_owner() -> None:
    merged = merge_fusions(
        [
            ("one", Fusion(edits=(Add(SITE),))),
            ("two", Fusion(edits=(Add(SITE), Replace(SITE), Rows("<a>")))),
        ]
    )
    assert [e.owner for e in merged.of(WeightEdit)] == ["one", "two", "two"]
    assert [e.owner for e in merged.edits] == ["two", "one", "two", "two"]


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (Fusion(edits=(Replace(SITE),)), Fusion(edits=(Replace(SITE),)), "weight of denoiser:block.to_k"),
        (Fusion(edits=(Wrap(SITE),)), Fusion(edits=(Wrap(SITE),)), "call of denoiser:block.to_k"),
        (Fusion(edits=(Replace(SITE),)), Fusion(edits=(swap(),)), "weight of denoiser:block.to_k"),
        (Fusion(edits=(Rewrite(ATTENTION),)), Fusion(edits=(Rewrite(ATTENTION),)), "probs"),
        (Fusion(source=object()), Fusion(source=object()), "source"),
        (Fusion(timestep_sampler=DRAW), Fusion(timestep_sampler=DRAW), "timestep_sampler"),
        (Fusion(edits=(StreamEdit("ip", ()),)), Fusion(edits=(StreamEdit("ip", ()),)), "stream 'ip'"),
        (Fusion(edits=(HeadEdit("h"),)), Fusion(edits=(HeadEdit("h"),)), "head 'h'"),
        (Fusion(rows=(Row("ref"),)), Fusion(rows=(Row("ref"),)), "row 'ref'"),
        (Fusion(strengths={"s": 1.0}), Fusion(strengths={"s": 0.5}), "'s'"),
        (Fusion(edits=(Rows("<a>"),)), Fusion(edits=(Rows("<a>"),)), "token '<a>'"),
        (Fusion(words=(Word("<a>", "sks"),)), Fusion(words=(Word("<a>", "xyz"),)), "token '<a>'"),
        (Fusion(words=(Word("<a>", "sks"),)), Fusion(edits=(Rows("<a>"),)), "token '<a>'"),
    ],
)  # fmt: skip
def test_exclusive_claims_conflict_by_both_names(first: Fusion, second: Fusion, what: str) -> None:
    with pytest.raises(ConflictError) as error:
        merge_fusions([("first", first), ("second", second)])
    assert all(word in str(error.value) for word in ("'first'", "'second'", what)), str(error.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Fusion(edits=(Add(SITE),)), Fusion(edits=(Add(SITE),))),
        (Fusion(edits=(Replace(SITE),)), Fusion(edits=(Add(SITE),))),
        (Fusion(edits=(Rows("<a>"),)), Fusion(edits=(Rows("<b>"),))),
        (
            Fusion(words=(Word("<a>", "sks", subject=0),)),
            Fusion(words=(Word("<a>", "xyz", subject=1),)),
        ),
    ],
)
def test_what_adds_up_does_not_conflict(first: Fusion, second: Fusion) -> None:
    merge_fusions([("first", first), ("second", second)])


def test_one_use_may_hold_several_edits_of_one_place() -> None:
    merge_fusions([("only", Fusion(edits=(Replace(SITE), Replace(SITE))))])
    # two subjects of one fit may have chosen the same placeholder
    merge_fusions([("only", Fusion(edits=(Rows("<a>", "<a>"),)))])


def test_guidance_terms_concatenate() -> None:
    term = GuidanceTerm(Branch("positive"), Branch(""), 1.0)
    merged = merge_fusions([("a", Fusion(guidance=(term,))), ("b", Fusion(guidance=(term,)))])
    assert len(merged.guidance) == 2


def test_a_field_by_kind_says_what_to_write_instead() -> None:
    options: Any = {"attention": (Rewrite(ATTENTION),)}
    with pytest.raises(TypeError, match=r"no field 'attention': write edits=\(\.\.\.\)"):
        Fusion(**options)
    with pytest.raises(TypeError, match=r"no field 'guidence', did you mean 'guidance'"):
        Fusion(**{"guidence": ()})
    nothing: Any = ("denoiser",)
    with pytest.raises(TypeError, match="edits holds a str"):
        Fusion(edits=nothing)


def test_kinds_stand_in_an_order_of_their_own() -> None:
    edits = (HeadEdit("h"), Add(SITE), Rewrite(ATTENTION), Rows("<a>"), Replace(SITE))
    kinds = [type(e).__name__ for e in Fusion(edits=edits).edits]
    assert kinds == ["Rows", "Rewrite", "Add", "Replace", "HeadEdit"]
    assert [type(e).__name__ for e in Fusion(edits=edits).of(WeightEdit)] == ["Add", "Replace"]


def loss(name: str, **options: Any) -> Loss:
    return Loss(name, torch.ones(2), **options)


def test_losses_come_alone_or_as_lists_and_are_filtered_by_glob() -> None:
    terms = flatten_losses([("a", [loss("x"), loss("y")]), ("b", loss("z"))])
    assert [term.name for term in terms] == ["x", "y", "z"]
    kept = flatten_losses([("a", [loss("x"), loss("xy")]), ("b", loss("z"))], ["x*"])
    assert [term.name for term in kept] == ["x", "xy"]


@pytest.mark.parametrize("globs", [("*",), ("other",)])
def test_losses_of_one_name_conflict_even_if_not_wanted(globs: tuple[str, ...]) -> None:
    with pytest.raises(ConflictError, match=r"loss 'x' .*'left'.*'right'"):
        flatten_losses([("left", loss("x")), ("right", loss("x"))], globs)


def batch(subject: list[int], weight: list[float] | None = None, subjects: int = 2) -> Batch:
    rows = len(subject)
    return Batch(
        latents=torch.zeros(rows, 1, 1, 1),
        subject=torch.tensor(subject),
        weight=torch.tensor(weight or [1.0] * rows),
        roles=("subject",) * rows,
        captions=("",) * rows,
        subjects=subjects,
    )


def test_a_loss_is_the_mean_within_a_subject() -> None:
    term = Loss("x", torch.tensor([1.0, 3.0, 10.0]))
    assert reduce_loss(term, batch([0, 0, 1])).tolist() == [2.0, 10.0]
    assert reduce_loss(term, batch([1, 0, 0])).tolist() == [6.5, 1.0]  # rows in any order


def test_only_the_rows_it_speaks_about_count() -> None:
    rows = torch.tensor([True, False, False])
    term = Loss("x", torch.tensor([4.0, 100.0, 100.0]), rows=rows)
    assert reduce_loss(term, batch([0, 0, 1])).tolist() == [4.0, 0.0]


def test_the_weights_of_loss_and_examples_multiply() -> None:
    term = Loss("x", torch.tensor([1.0, 1.0, 1.0]), weight=3.0)
    assert reduce_loss(term, batch([0, 0, 1], [0.5, 1.5, 2.0])).tolist() == [3.0, 6.0]


def test_an_absent_subject_gets_no_gradient_and_no_nan() -> None:
    value = torch.ones(2, requires_grad=True)
    reduced = reduce_loss(Loss("x", value), batch([0, 0], subjects=3))
    assert reduced.tolist() == [1.0, 0.0, 0.0]
    reduced.sum().backward()
    assert value.grad is not None
    assert torch.isfinite(value.grad).all()
