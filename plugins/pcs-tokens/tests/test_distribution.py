"""A text is read with each of several prompts, and each picture draws one of the Gaussian that they span."""

from __future__ import annotations

import pytest
import torch

from pcs_core import fit, load_recipe, open_backbone, sample
from pcs_core.backbone import Attachment, Backbone, tokenise
from pcs_core.data import PICTURE, READINGS, Fusion
from pcs_testing import make_subject
from pcs_tokens.distribution import SPREAD, PromptRows, drawn, gaussian, likeness

WIDTH = 32


def rows(backbone: Backbone, prompts: int = 3, subjects: int = 1) -> PromptRows:
    """Return two vectors in each of ``prompts`` for "<thing>"."""
    width = backbone.embedding(torch.zeros(1, 1, dtype=torch.long)).shape[-1]
    rng = torch.Generator().manual_seed(5)
    start = torch.randn(subjects, prompts, 2, width, generator=rng)
    return PromptRows(start, ["<thing>"] * subjects, ["dog"] * subjects)


def encode(backbone: Backbone, edit: PromptRows, texts: list[str], *, fitting=False, **extra):  # type: ignore[no-untyped-def]
    """Return the conditioning of texts with the edit in force."""
    tokens = tokenise(texts, backbone.tokenizer, tokens=(edit,))
    subject = torch.zeros(len(texts), dtype=torch.long)
    with torch.no_grad(), Attachment(backbone, Fusion(edits=(edit,)), fitting=fitting) as net:
        return net.encode_text(tokens, subject, extra=extra)


@pytest.mark.parametrize("name", ["tiny", "tiny-sdxl", "tiny-sd3"])
def test_each_reading_is_a_text_with_one_prompt(name: str) -> None:
    """Reading k is what an edit of the k-th rows alone gives; the mean of them conditions a fit."""
    backbone = open_backbone(name)
    edit = rows(backbone)
    texts = ["a photo of <thing> here"]
    cond = encode(backbone, edit, texts, fitting=True)
    said = cond.extra[READINGS]
    alone = []
    for k in range(3):
        one = PromptRows(
            edit.rows[:, k : k + 1].detach().expand(-1, 2, -1, -1), ["<thing>"], ["dog"]
        )
        alone.append(encode(backbone, one, texts, fitting=True).extra[READINGS][:, 0])
    torch.testing.assert_close(said, torch.stack(alone, dim=1), rtol=0, atol=1e-6)
    torch.testing.assert_close(cond.text, said.mean(1), rtol=0, atol=1e-6)
    assert (said[:, 0] - said[:, 1]).abs().amax() > 1e-3


def test_a_picture_draws_its_own_prompt(backbone: Backbone) -> None:
    """mean + spread * deviation * noise, the noise of each picture's seed; spread 0 is the mean for all."""
    edit = rows(backbone)
    texts = ["<thing>"] * 3
    seeds, ones = torch.tensor([4, 5, 4]), torch.ones(3)
    said = encode(backbone, edit, texts, fitting=True).extra[READINGS]
    mean, deviation = gaussian(said)
    text = encode(backbone, edit, texts, **{PICTURE: seeds, SPREAD: ones}).text
    noise = (text - mean) / deviation.clamp_min(1e-12)
    assert not torch.allclose(text[0], text[1])
    single = encode(backbone, edit, ["<thing>"], **{PICTURE: seeds[:1], SPREAD: ones[:1]}).text
    torch.testing.assert_close(text[0], single[0], rtol=0, atol=1e-5)  # whatever is drawn beside it
    moved = noise[deviation > 1e-4]
    assert abs(float(moved.mean())) < 0.1
    assert abs(float(moved.std()) - 1) < 0.1
    wide = encode(backbone, edit, texts, **{PICTURE: seeds, SPREAD: 2 * ones}).text
    torch.testing.assert_close(wide - mean, 2 * (text - mean), rtol=0, atol=1e-5)
    none = encode(backbone, edit, texts, **{PICTURE: seeds, SPREAD: 0 * ones}).text
    torch.testing.assert_close(none, mean, rtol=0, atol=1e-6)


def test_other_prompts_are_read_once(backbone: Backbone) -> None:
    """A batch that does not name the subject is the base's, bit for bit, and nothing is kept of readings."""
    with torch.no_grad(), Attachment(backbone, Fusion()) as net:
        plain = net.encode_text(tokenise(["a cat"], backbone.tokenizer)).text
    cond = encode(backbone, rows(backbone), ["a cat"], fitting=True)
    assert torch.equal(cond.text, plain)
    assert READINGS not in cond.extra


def test_the_deviation_is_that_of_a_sample() -> None:
    """`torch.std` of the authors' `reparameterize` divides by K - 1."""
    said = torch.tensor([[[1.0], [3.0], [5.0]]])
    mean, deviation = gaussian(said)
    assert (float(mean), float(deviation)) == (3.0, 2.0)


def test_likeness_is_nought_for_orthogonal_prompts_and_one_for_equal_ones() -> None:
    assert float(likeness(torch.eye(4)[None] * 3)) == 0.0
    assert float(likeness(torch.ones(1, 4, 6))) == pytest.approx(1.0)
    # two of three alike: 2 of 6 ordered pairs
    some = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert float(likeness(some)) == pytest.approx(1 / 3)


def test_rows_of_one_seed_draw_one_after_the_other() -> None:
    like = torch.zeros(3, 2, 2)
    noise = drawn([7, 8, 7], like, "a")
    alone = drawn([7, 7], like[:2], "a")
    assert torch.equal(noise[[0, 2]], alone)
    assert not torch.equal(noise[0], noise[2])
    assert not torch.equal(drawn([7], like[:1], "b")[0], noise[0])


def test_the_end_of_a_caption_is_where_its_end_token_stands(backbone: Backbone) -> None:
    """The orthogonality is of the states there, whatever stands around the subject."""
    from pcs_tokens.distribution import PromptDistribution

    technique = PromptDistribution(vectors=2)
    edit = rows(backbone)

    class Asked:
        """What the technique asks of a run."""

        class features:
            concepts = ((type("C", (), {"token": "<thing>"})(),),)

        def embed_words(self, text: str) -> list[int]:
            return backbone.tokenizer.encode(text)

    for text in ("<thing>", "a photo of <thing> on the beach", "<thing> beside a <thing>"):
        ids = tokenise([text], backbone.tokenizer, tokens=(edit,)).ids[0].tolist()
        assert technique._end(Asked(), text, 0) == ids.index(backbone.tokenizer.end, 1)  # type: ignore[arg-type]


def test_pictures_of_other_seeds_have_other_texts(backbone: Backbone) -> None:
    """From a fit to a drawing: with a spread of 0 a seed's picture is the mean prompt's."""
    recipe = load_recipe(
        "dreamdistribution",
        overrides=[
            "prompts.steps=2",
            "prompts.batch=2",
            "tokens.distribution.prompts=3",
            "tokens.distribution.samples=2",
            "sample.steps=2",
        ],
    )
    artifact = fit(recipe, make_subject(), backbone, seed=0)[0]
    prompt = f"a photo of {make_subject().concept.token}"
    both = sample(artifact, backbone, prompt, count=2, seed=1)
    second = sample(artifact, backbone, prompt, seed=2)
    torch.testing.assert_close(both[1:], second, rtol=0, atol=1e-4)
    mean = sample(artifact, backbone, prompt, count=2, seed=1, strengths={SPREAD: 0.0})
    assert (both - mean).abs().amax() > 1e-4
