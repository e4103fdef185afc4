"""CLIP's word list is the one that was published."""

from __future__ import annotations

import pytest

from pcs_core.errors import InputError
from pcs_diffusers.clip_words import clip_merges


def test_another_word_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clip_merges.cache_clear()
    clip_merges()
    clip_merges.cache_clear()
    monkeypatch.setattr("pcs_diffusers.clip_words.SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not CLIP's vocabulary"):
        clip_merges()
