"""Weights in prompts: what is read as one, and what it does, against the published formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_core import load_preset, open_backbone, sample
from pcs_core.backbone import Attachment, tokenise
from pcs_core.data import Fusion, TokenEdit, Word
from pcs_core.errors import InputError
from pcs_tokens.prompt_weights import Lerped, PromptWeights, Scaled
from pcs_tokens.weight_syntax import a1111, compel

BACKBONES = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-tokens")


@pytest.fixture(scope="module", params=BACKBONES)
def network(request: pytest.FixtureRequest) -> Any:
    return opened(request.param)


def opened(id: str) -> Any:
    """Return a network whose last normalisation has a shift, as trained ones do: a mean to restore."""
    network: Any = open_backbone(id)
    for name, parameter in network.text_encoder.named_parameters():
        if name.endswith("final_layer_norm.bias"):
            parameter.data.fill_(0.3)
    return network


def said(network: Any, prompts: Sequence[str], reader: Any = None, **options: Any) -> Any:
    tokens = options.get("tokens", ())
    prompts = tokenise(prompts, network.tokenizer, reader=reader, **options)
    fusion = Fusion(edits=tuple(tokens), reader=reader)
    with torch.no_grad(), Attachment(network, fusion) as net:
        return net.encode_text(prompts, torch.zeros(len(prompts.ids), dtype=torch.long))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("an (important:1.3) word", [("an ", 1.0), ("important", 1.3), (" word", 1.0)]),
        ("a [quiet] word", [("a ", 1.0), ("quiet", 1 / 1.1), (" word", 1.0)]),
        ("(unclosed", [("unclosed", 1.1)]),
        (r"a \(literal\] \\ \[one\)", [(r"a (literal] \ [one)", 1.0)]),
        ("(next)(to)", [("nextto", 1.1)]),
        ("(a:.5)(b: 2 )", [("a", 0.5), ("b", 2.0)]),
        ("time: 10:30)", [("time: 10:30)", 1.0)]),
        ("a ) b ]", [("a ) b ]", 1.0)]),
        ("((a):2)", [("a", 2.2)]),
        ("(ein Café:1.2)", [("ein Café", 1.2)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                *(("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1)),
                *(("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)),
            ],
        ),
    ],
)
def test_what_the_web_ui_reads(text: str, parts: list[tuple[str, float]]) -> None:
    """Its own examples among them, as the doctest of ``parse_prompt_attention`` has them."""
    assert [t for t, _ in a1111(text)] == [t for t, _ in parts]
    assert [w for _, w in a1111(text)] == pytest.approx([w for _, w in parts])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("picking apricots+", [("picking ", 1.0), ("apricots", 1.1)]),
        ("picking (apricots)-", [("picking ", 1.0), ("apricots", 0.9)]),
        ("a (two words)++ b", [("a ", 1.0), ("two words", 1.21), (" b", 1.0)]),
        ("(one two+)++", [("one ", 1.21), ("two", 1.331)]),
        ("(picking (apricots)1.3)1.1", [("picking ", 1.1), ("apricots", 1.43)]),
        ("mother-in-law x--", [("mother-in-law ", 1.0), ("x", 0.81)]),
        ("x--, y+.", [("x", 0.81), (", ", 1.0), ("y", 1.1), (".", 1.0)]),
        ("(plain) words", [("plain words", 1.0)]),
        (r"a \(sign\) and c\+\+", [("a (sign) and c++", 1.0)]),
        ("a - b + c (d) 1.3", [("a - b + c d 1.3", 1.0)]),
    ],
)
def test_what_compel_reads(text: str, parts: list[tuple[str, float]]) -> None:
    assert [t for t, _ in compel(text)] == [t for t, _ in parts]
    assert [w for _, w in compel(text)] == pytest.approx([w for _, w in parts])


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (a1111, "a [cat:dog:0.5]", "words that change"),
        (a1111, "a [cat|dog]", "words that change"),
        (a1111, "a cat AND a dog", "joined by AND"),
        (a1111, "a cat BREAK a dog", "'BREAK' is of a1111's syntax"),
        (a1111, "a cat <lora:pet:0.8>", "files named in a prompt"),
        (compel, '("a cat", "a dog").blend(1, 1)', ".blend()"),
        (compel, "a cat withLora(pet, 0.8)", "files named in a prompt"),
        (compel, 'a "red car"+', "write (red car)+"),
        (compel, "a (red car", "a bracket '(' has no other one"),
        (compel, "a red) car", "a bracket ')' has no other one"),
    ],
)
def test_what_is_not_read_is_refused(read: Any, text: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        read(text)
    assert said in str(refused.value)


def parts_of(network: Any, text: Tensor) -> tuple[Tensor, ...]:
    """Return what each encoder of SDXL says; of others all."""
    return text.split((32, 48), dim=-1) if network.card.id == "tiny-sdxl" else (text,)


def places(network: Any, words: Sequence[str], weighed: Sequence[float]) -> Tensor:
    """Return the weight of each position [l] of words that stand in a row, counted by hand."""
    weights: list[float] = []
    for reader in (network.tokenizer, *network.tokenizer.beside):
        row = [1.0] if reader.start >= 0 else []
        for word, weight in zip(words, weighed, strict=True):
            row += [weight] * len(reader.encode(word))
        weights += row + [1.0] * (reader.length - len(row))
    return torch.tensor(weights)


def test_scaled_as_the_web_ui(network: Any) -> None:
    """z w, then the mean of each encoder's window as before (``EmphasisOriginal.after_transformers``)."""
    plain = said(network, ["a red toy on grass"])
    ours = said(network, ["a (red toy:1.4) [on] grass"], Scaled(restored=True))
    w = places(network, ["a", "red", "toy", "on", "grass"], [1.0, 1.4, 1.4, 1 / 1.1, 1.0])
    expected = []
    for z in parts_of(network, plain.text):
        scaled = z * w[None, :, None]
        expected.append(scaled * (z.mean() / scaled.mean()))
    torch.testing.assert_close(ours.text, torch.cat(expected, dim=-1), rtol=1e-4, atol=1e-5)
    if ours.pooled is not None:
        assert torch.equal(ours.pooled, plain.pooled)
    unrestored = said(network, ["a (red toy:1.4) [on] grass"], Scaled(restored=False))
    torch.testing.assert_close(unrestored.text, plain.text * w[None, :, None])


def test_moved_from_the_empty_prompt_as_compel(network: Any) -> None:
    """e + w (z - e), e the empty prompt's states, never the zeros that SDXL is told in its place."""
    if network.card.id == "tiny-sdxl":
        network.empty_is_zero = False
    nothing = said(network, [""]).text
    if network.card.id == "tiny-sdxl":
        network.empty_is_zero = True
    plain = said(network, ["a red toy on grass"])
    ours = said(network, ["a (red toy)1.4 on- grass"], Lerped())
    w = places(network, ["a", "red", "toy", "on", "grass"], [1.0, 1.4, 1.4, 0.9, 1.0])[:, None]
    torch.testing.assert_close(
        ours.text, nothing + w * (plain.text - nothing), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(ours.text[:, :2], plain.text[:, :2])


@pytest.mark.parametrize("reader", [Scaled(restored=True), Lerped()])
def test_prompts_without_weights_stay_to_the_last_bit(network: Any, reader: Any) -> None:
    prompts = ["a red toy on grass", "", r"toy, \(red\)"]
    theirs = ["a red toy on grass", "", "toy, (red)"]
    assert torch.equal(said(network, prompts, reader).text, said(network, theirs).text)
    rows = said(
        network, ["a (toy)1.4 dog" if isinstance(reader, Lerped) else "(toy:2)", "a dog"], reader
    )
    torch.testing.assert_close(rows.text[1:], said(network, ["a dog"]).text, rtol=0, atol=1e-6)


def test_a_weight_in_a_later_window() -> None:
    """Each window has its own mean, and the empty prompt is that of a window."""
    network = opened("tiny")
    filled, length = "a " * 22, network.tokenizer.length
    for reader, written in ((Scaled(restored=True), "(red toy:1.4)"), (Lerped(), "(red toy)1.4")):
        alone = said(network, [f"{written} on grass"], reader).text
        ours = said(network, [f"{filled}{written} on grass"], reader).text
        torch.testing.assert_close(ours[:, length:], alone)
        torch.testing.assert_close(ours[:, :length], said(network, [filled]).text)


def test_a_mean_of_rounding_is_not_restored() -> None:
    """A normalisation without learned numbers leaves a mean of 0: its ratio would be noise."""
    network: Any = open_backbone("tiny")
    plain = said(network, ["a red toy"]).text
    assert plain.mean().abs() < 1e-6
    w = places(network, ["a", "red", "toy"], [1.0, 1.4, 1.0])[:, None]
    ours = said(network, ["a (red:1.4) toy"], Scaled(restored=True)).text
    torch.testing.assert_close(ours, plain * w)


class Rows(TokenEdit):
    def vocabulary(self) -> Tensor:
        return torch.full((1, 1, 32), 0.3)


class LayerRows(TokenEdit):
    """Another row in each cross-attention layer, as P+ and NeTI have."""

    def layer(self, time: Any, layers: int, subject: Any = None) -> Tensor:
        return torch.linspace(-1, 1, layers)[None, :, None, None].expand(1, -1, 1, 32)


def test_each_layers_text_weighs() -> None:
    network = opened("tiny")
    edit = LayerRows(["<x>"], count=1, hosts=["toy"])
    plain = said(network, ["a <x> on grass"], tokens=[edit])
    ours = said(network, ["a (<x>:1.5) on grass"], Scaled(restored=False), tokens=[edit])
    w = places(network, ["a", "toy"], [1.0, 1.5])[:, None]
    assert not torch.equal(plain.layered[:, 0], plain.layered[:, 1])
    torch.testing.assert_close(ours.layered, plain.layered * w)


@pytest.mark.parametrize("token", ["<x>", "[V]", "(x)", "x+"])
def test_a_token_keeps_its_signs(token: str) -> None:
    """Brackets of a token are its name, and a token has a weight as any word."""
    network: Any = open_backbone("tiny")
    edit = Rows([token], count=1, hosts=["toy"])
    for reader, written in (
        (Scaled(restored=False), f"({token}:1.5)"),
        (Lerped(), f"({token})1.5"),
    ):
        prompts = tokenise(
            [f"a {written} dog", f"a {token} dog"], network.tokenizer, tokens=[edit], reader=reader
        )
        assert prompts.spans["0"].tolist() == [[2], [2]]
        assert prompts.weights is not None
        assert prompts.weights[:, 2].tolist() == [1.5, 1.0]
    word = Word(token, "sks dog", noun="dog")
    plain = tokenise(
        [f"a ({token}:1.5)"], network.tokenizer, words=[word], reader=Scaled(restored=True)
    )
    assert plain.ids.tolist() == tokenise(["a sks dog"], network.tokenizer).ids.tolist()


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a (<x>:1.5) dog, red", "a sks dog, red"),
        ("a (<x>:1.5) Dog", "a sks dog"),
        ("a (<x>:1.5) doghouse", "a sks dog doghouse"),
        ("a (<x> dog:1.5) dog", "a sks dog dog"),
        ("a (red <x>) (dog:1.2)", "a red sks dog dog"),
    ],
)
def test_a_noun_behind_a_weighted_token_is_not_doubled(prompt: str, plain: str) -> None:
    reader, word = open_backbone("tiny").tokenizer, Word("<x>", "sks dog", noun="dog")
    ours = tokenise([prompt], reader, words=[word], reader=Scaled(restored=True))
    assert ours.ids.tolist() == tokenise([plain], reader).ids.tolist()


def test_drawn_through_python_and_off_by_default() -> None:
    network = open_backbone("tiny")
    preset = load_preset(techniques=["tokens.prompt_weights"])
    weighed = [
        sample(None, network, prompt, steps=2, scale=3.0, preset=preset)
        for prompt in ("a (red:1.5) toy", "a (red:1.0) toy", "a red toy")
    ]
    plain = sample(None, network, "a red toy", steps=2, scale=3.0)
    assert not torch.equal(weighed[0], plain)
    assert torch.equal(weighed[1], plain)
    assert torch.equal(weighed[2], plain)
    assert not torch.equal(sample(None, network, "a (red:1.0) toy", steps=2, scale=3.0), plain)


def test_off_gives_no_reader() -> None:
    assert PromptWeights(syntax="off").fuse(None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (a1111, "(" * 100 + "dog" + ")" * 100),
        (a1111, "(dog:99999)"),
        (compel, "dog" + "+" * 50_000),
        (compel, "(dog)9999"),
    ],
)
def test_a_weight_of_which_no_picture_comes_is_refused(read: Any, text: str) -> None:
    """Read on, it ends as a picture of nan, for which a fit is blamed."""
    with pytest.raises(InputError, match=r"'dog' would weigh \S+: give .* 1000 or less"):
        read(text)


def test_a_word_that_weighs_nothing_is_read() -> None:
    assert compel("a dog" + "-" * 50_000)[-1][1] < 1e-30
