"""``pcs sample A --add B``: artifacts act together, each at a strength of its own; nothing is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from pcs_testing import pixels

LORA = """
[recipe]
id = "{id}"

[[use]]
technique = "tokens.rare"
identifier = "{rare}"

[[use]]
technique = "weights.lora"

[[phase]]
name = "all"
steps = 3
lr = 5e-2

[sample]
steps = 3
scale = 2.0
"""
WORDS = '[recipe]\nid = "{id}"\n[[use]]\ntechnique = "tokens.learnable"\n'
TUNED = '[[phase]]\nname = "all"\nsteps = 3\nlr = 5e-2\n[sample]\nsteps = 3\nscale = 2.0\n'
KV = WORDS + '[[use]]\ntechnique = "weights.kv"\n' + TUNED
SVD = WORDS + '[[use]]\ntechnique = "weights.svd"\n' + TUNED
FULL = WORDS + '[[use]]\ntechnique = "weights.full"\npattern = "*.to_k.weight"\n' + TUNED
KINDS = {"lora": LORA, "word": WORDS + TUNED, "kv": KV, "svd": SVD, "full": FULL}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Fit an artifact of a kind once: "lora", "word", "kv", "svd" or "full"."""
    from pcs_cli.main import main

    place = tmp_path_factory.mktemp("stacked")

    def make(kind: str, name: str, token: str = "", backbone: str = "tiny") -> Path:
        out = place / name
        if not out.exists():
            (place / f"{name}.toml").write_text(
                KINDS[kind].format(id=name, rare=name.partition("-")[0])
            )
            pictures = place / "pictures" / name
            pictures.mkdir(parents=True)
            noise = np.random.default_rng(len(name)).integers(0, 256, (36, 36, 3), dtype=np.uint8)
            Image.fromarray(noise, "RGB").save(pictures / "0.png")
            code = main(
                [
                    *("fit", str(place / f"{name}.toml"), str(pictures), "--backbone", backbone),
                    *("--noun", "dog", "--token", token or f"<{name}>", "--no-preview"),
                    *("--device", "cpu", "--seed", str(len(name)), "--out", str(out)),
                ]
            )
            assert code == 0
        return out

    return make


@pytest.fixture
def drawn(pcs: Callable, tmp_path: Path) -> Callable[..., bytes]:
    """Draw one picture and return its pixels."""

    def draw(*words: object) -> bytes:
        out = tmp_path / "drawn"
        done = pcs("sample", *words, "-n", 1, "--seed", 7, "--overwrite", "--out", out)
        assert done.code == 0, done.err
        return pixels(out / "000.png")

    return draw


def test_two_loras_each_at_a_strength_of_its_own(made: Callable, drawn: Callable) -> None:
    one, two = made("lora", "ann"), made("lora", "bobby")
    prompt = "a photo of <ann> and <bobby>"
    both = drawn(one, "--add", two, prompt)
    plain, other = (
        drawn(one, "a photo of <ann> and bobby dog"),
        drawn(two, "a photo of ann dog and <bobby>"),
    )
    assert len({both, plain, other}) == 3
    assert drawn(one, "--add", two, prompt, "--strength", "bobby:lora=0") == plain
    assert drawn(one, "--add", two, prompt, "--strength", "bobby=0") == plain
    assert drawn(one, "--add", two, prompt, "--strength", "lora=0") == other
    assert drawn(one, "--add", two, prompt, "--strength", "lora=1", "--strength", "bobby=1") == both
    half = drawn(one, "--add", two, prompt, "--strength", "bobby:lora=0.5")
    assert len({half, both, plain}) == 3


def test_two_loras_are_the_sum_of_their_updates(made: Callable) -> None:
    import torch

    from pcs_core import load, open_backbone, sample

    backbone: object = open_backbone("tiny")
    parts = [load(made("lora", name)) for name in ("ann", "bobby")]
    options = {"steps": 3, "scale": 2.0, "seed": 3}
    words = "a photo of ann dog and bobby dog"
    stacked = sample(
        parts, backbone, "a photo of <ann> and <bobby>", strengths={"lora": 0.8}, **options
    )
    denoiser = backbone.parts["denoiser"]  # type: ignore[attr-defined]
    with torch.no_grad():
        for part, strength in zip(parts, (0.8, 1.0), strict=True):
            for name, b in part.tensors.items():
                if name.endswith("/B"):
                    layer = denoiser.get_submodule(name.split("/")[1])
                    layer.weight += strength * b @ part.tensors[f"{name[:-1]}A"]  # alpha = rank
    assert (stacked - sample(None, backbone, words, **options)).abs().max() < 1e-5


def test_two_words_and_a_word_and_a_lora(made: Callable, drawn: Callable) -> None:
    one, two, lora = made("word", "tim"), made("word", "zoe"), made("lora", "ann")
    both = drawn(one, "--add", two, "a photo of <tim> and <zoe>")
    assert both == drawn(two, "--add", one, "a photo of <tim> and <zoe>")
    # a word at 0 is its noun
    alone = drawn(one, "a photo of <tim> and dog")
    assert (
        drawn(one, "--add", two, "a photo of <tim> and <zoe>", "--strength", "zoe=0")
        == alone
        != both
    )
    mixed = drawn(one, "--add", lora, "a photo of <tim> and <ann>")
    assert drawn(one, "--add", lora, "a photo of <tim>", "--strength", "ann:lora=0") == drawn(
        one, "a photo of <tim>"
    )
    assert mixed != drawn(one, "--add", lora, "a photo of <tim> and <ann>", "--strength", "ann=0.5")


def test_the_mean_of_two_is_what_a_merge_by_average_writes(
    pcs: Callable, made: Callable, drawn: Callable, tmp_path: Path
) -> None:
    one, two = made("kv", "kay"), made("kv", "vera")
    prompt = "a photo of <kay> and <vera>"
    assert (
        pcs("merge", one, two, "--method", "average", "--no-preview", "--out", tmp_path / "m").code
        == 0
    )
    halves = ("--strength", "kv=0.5", "--strength", "vera:kv=0.5")
    merged = drawn(tmp_path / "m", prompt)
    shutil.copy(tmp_path / "drawn" / "000.png", tmp_path / "merged.png")
    assert merged != drawn(one, "--add", two, prompt)
    drawn(one, "--add", two, prompt, *halves)
    pictures = [Image.open(p) for p in (tmp_path / "merged.png", tmp_path / "drawn" / "000.png")]
    assert max(high for _, high in ImageChops.difference(*pictures).getextrema()) <= 1


def test_shared_tokens_get_a_number_and_that_is_said(
    pcs: Callable, made: Callable, drawn: Callable, tmp_path: Path
) -> None:
    one, two = made("word", "tim"), made("word", "tim-again", "<tim>")
    out = tmp_path / "pictures"
    words = ("sample", one, "--add", two, "-n", 1)
    done = pcs(*words, "a photo of <tim> and <tim-2>", "--out", out)
    assert done.code == 0, done.err
    assert f"{two} calls its subject <tim> as another does: here it is <tim-2>" in done.err
    facts = json.loads((out / "sample.json").read_text())
    assert facts["artifact"]["tokens"] == ["<tim>"]
    (added,) = facts["added"]
    assert (added["name"], added["tokens"]) == ("tim-again", ["<tim-2>"])
    assert drawn(one, "--add", two, "a photo of <tim-2>") == drawn(two, "a photo of <tim>")
    done = pcs(*words, "a photo of <tim>", "--out", tmp_path / "other")
    assert "the prompt does not name <tim-2> of" in done.err


@pytest.mark.parametrize(
    ("kinds", "options", "said"),
    [
        (("svd", "svd"), (), "both rewrite the weight of"),
        (("svd", "full"), (), "both rewrite the weight of"),
        (("lora", "lora"), ("--strength", "second:lra=1"), "did you mean 'second:lora'?"),
        (
            ("lora", "lora"),
            ("--strength", "second=1", "--strength", "second:lora=2"),
            "another already",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_network_is_opened(
    *,
    pcs: Callable,
    made: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kinds: tuple[str, str],
    options: tuple[str, ...],
    said: str,
) -> None:
    one, two = made(kinds[0], f"{kinds[0]}-first"), made(kinds[1], f"{kinds[1]}-second")
    shutil.copytree(two, tmp_path / "second")
    import pcs_engine as engine

    monkeypatch.setattr(engine, "open_backbone", lambda *_, **__: pytest.fail("opened"))
    prompt = f"a photo of <{one.name}>"
    done = pcs(
        "sample", one, prompt, "--add", tmp_path / "second", *options, "--out", tmp_path / "no"
    )
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "no").exists()


def test_other_backbones_and_the_base_are_refused(
    pcs: Callable, made: Callable, tmp_path: Path
) -> None:
    one, other = made("word", "tim"), made("word", "vic", backbone="tiny-v")
    done = pcs("sample", one, "<tim>", "--add", other, "--out", tmp_path / "no")
    assert done.code == 2
    assert "'tim' was made on backbone 'tiny' (sha256" in done.err
    assert "'vic' on 'tiny-v'" in done.err
    done = pcs("sample", "--base", "tiny", "a dog", "--add", one, "--out", tmp_path / "no")
    assert done.code == 2
    assert "--base draws untuned" in done.err


def test_two_of_what_a_drawing_has_once(pcs: Callable, tmp_path: Path, made: Callable) -> None:
    options = ["--backbone", "tiny", "--set", "sample.steps=2", "--no-preview"]
    for name in ("one", "two"):
        assert pcs("fit", "layout-control", *options, "--out", tmp_path / name).code == 0
    words = ("sample", tmp_path / "one", "--add")
    done = pcs(*words, tmp_path / "two", "a dog", "--out", tmp_path / "no")
    assert done.code == 2
    assert "cannot draw together" in done.err
    done = pcs(*words, made("lora", "ann"), "a photo of <ann>", "-n", 1, "--out", tmp_path / "yes")
    assert done.code == 0, done.err


def test_what_does_more_may_stand_behind(
    pcs: Callable, made: Callable, drawn: Callable, tmp_path: Path
) -> None:
    """Its concepts are counted first, as techniques read "concept.0" where the first one stands."""
    from pcs_core import stack_personalizations

    recipe = tmp_path / "locked.toml"
    recipe.write_text(
        '[recipe]\nid = "locked"\n[[use]]\ntechnique = "tokens.learnable"\n'
        '[[use]]\ntechnique = "weights.key_locked"\ncaptions = 200\n' + TUNED
    )
    pictures = tmp_path / "bo"
    pictures.mkdir()
    Image.new("RGB", (36, 36), "red").save(pictures / "0.png")
    words = ("--noun", "dog", "--token", "<bo>", "--backbone", "tiny", "--no-preview")
    assert pcs("fit", recipe, pictures, *words, "--out", tmp_path / "locked").code == 0
    lora, alone = made("lora", "ann"), drawn(tmp_path / "locked", "a photo of ann dog and <bo>")
    stack = (lora, "--add", tmp_path / "locked", "a photo of <ann> and <bo>")
    assert drawn(*stack, "--strength", "lora=0") == alone != drawn(*stack)
    less = drawn(*stack, "--strength", "lora=0", "--strength", "key_locked.strength=0.2")
    assert less != alone
    stacked = stack_personalizations([lora, tmp_path / "locked"])
    assert [concept.token for concept in stacked.concepts] == ["<bo>", "<ann>"]


def test_a_stack_is_not_stored(made: Callable, tmp_path: Path) -> None:
    from pcs_core import export, merge_personalizations, save, stack_personalizations
    from pcs_core.errors import PcsError

    stacked = stack_personalizations([made("word", "tim"), made("word", "zoe")])
    with pytest.raises(PcsError, match="not stored: merge them"):
        save(stacked, tmp_path / "no")
    with pytest.raises(PcsError, match="do not merge"):
        merge_personalizations([stacked, made("lora", "ann")])
    with pytest.raises(PcsError, match="are not exported"):
        export(stacked, tmp_path / "no", to="diffusers")


def test_one_identifier_for_two_is_said(
    pcs: Callable, made: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = made("lora", "ann"), made("lora", "ann-otherwise")
    words = ("a photo of <ann> and <ann-otherwise>", "-n", 1, "--out", tmp_path / "pictures")
    done = pcs("sample", one, "--add", two, *words)
    assert done.code == 0, done.err
    assert "'ann' and 'ann-otherwise' share the identifier 'ann'" in caplog.text


def test_what_a_technique_does_alone_is_read_from_its_declarations() -> None:
    from pcs_core.catalogue import catalogue
    from pcs_core.data import Use
    from pcs_merging.plain_uses import is_plain, rewrites

    uses = [Use(id, catalogue().get("techniques", id)()) for id in catalogue().ids("techniques")]
    rewriting = {use.name for use in uses if rewrites(use)}
    assert {"weights.full", "weights.peft", "weights.svd"} <= rewriting
    assert rewriting.isdisjoint({"weights.lora", "weights.kv", "weights.bottleneck"})
    acting = {use.name for use in uses if is_plain(use)}
    assert {"weights.lora", "weights.kv", "tokens.learnable", "tokens.rare"} <= acting
    assert acting.isdisjoint(
        {"acceleration.lora_file", "guidance.branches", "attention.shared", "weights.key_locked"}
    )
