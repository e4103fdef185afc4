"""Any text draws a picture or is refused with its reason, and what means the same draws the same."""

from __future__ import annotations

import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcs_cli.main import main
from pcs_core import fit, load_recipe, open_backbone, sample, save
from pcs_core.backbone import Backbone
from pcs_core.data import Personalization
from pcs_core.errors import PcsError
from pcs_testing import make_subject

ANY = st.text(max_size=40)
READABLE = st.text(
    st.characters(categories=("Lu", "Ll", "Lo", "Nd", "Po", "Zs"), exclude_characters="<>"),
    max_size=25,
)
FAMILIES = ("tiny", "tiny-sdxl", "tiny-sd3", "tiny-tokens")


@pytest.fixture(scope="module")
def backbones() -> dict[str, Backbone]:
    return {name: open_backbone(name) for name in FAMILIES}


@pytest.fixture(scope="module")
def learned() -> Personalization:
    recipe = load_recipe("textual-inversion", backbone="tiny", overrides=["token.steps=1"])
    return fit(recipe, make_subject(), open_backbone("tiny"))[0]


@given(prompt=ANY, negative=st.none() | ANY, family=st.sampled_from(FAMILIES))
def test_any_text_draws_or_is_refused(
    prompt: str, negative: str | None, family: str, backbones: dict[str, Backbone]
) -> None:
    try:
        pictures = sample(None, backbones[family], prompt, negative=negative, steps=1, scale=2.0)
    except PcsError as error:
        assert str(error)
        odd = [c for c in prompt + (negative or "") if not c.isprintable() or ord(c) > 0xE000]
        assert odd or not prompt.strip(), error
        return
    assert bool(pictures.isfinite().all())


@given(before=READABLE, after=READABLE)
def test_a_token_counts_wherever_it_stands(
    before: str, after: str, learned: Personalization
) -> None:
    """Between words of any script, with spaces or without: it is not the text without it."""
    token = learned.concepts[0].token
    backbone = open_backbone("tiny")
    try:
        with_token = sample(learned, backbone, f"{before} {token}{after}", steps=1, scale=2.0)
    except PcsError as error:
        assert str(error)
        return
    without = sample(None, backbone, f"{before} {after}".strip() or "a", steps=1, scale=2.0)
    assert not torch.equal(with_token, without)


@given(text=READABLE)
def test_one_text_in_two_normal_forms_is_one_prompt(
    text: str, backbones: dict[str, Backbone]
) -> None:
    composed, apart = (unicodedata.normalize(form, "é " + text) for form in ("NFC", "NFD"))
    first, second = (
        sample(None, backbones["tiny"], t, steps=1, scale=2.0) for t in (composed, apart)
    )
    assert torch.equal(first, second)


@given(prompt=ANY.filter(lambda t: "\0" not in t))
def test_the_command_draws_or_says_one_thing(
    prompt: str,
    learned: Personalization,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path_factory.mktemp("drawn")
    save(learned, root / "artifact")
    token = learned.concepts[0].token
    words = ["sample", str(root / "artifact"), f"{prompt} {token}", "-n", "1", "--steps", "1"]
    code = main([*words, "--out", str(root / "out"), "--json"])
    printed = capsys.readouterr()
    assert code in (0, 2), printed.err
    assert "Traceback" not in printed.err
    assert "internal error" not in printed.err
    assert (code == 0) == (root / "out" / "000.png").is_file()
    if code == 2:
        assert not (root / "out").exists()
        assert len([line for line in printed.err.splitlines() if line.startswith("Error")]) == 1
