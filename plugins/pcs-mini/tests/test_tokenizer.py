"""The tokenizer: grammar words are whole, all other words split, nothing is unknown."""

from functools import cache

from transformers import CLIPTokenizer

from pcs_mini.architecture import TEXT_LENGTH, build_tokenizer
from pcs_mini.world.assets import SLICE_FILE, Assets
from pcs_mini.world.grammar import vocabulary


@cache
def words() -> tuple[str, ...]:
    return vocabulary(Assets(SLICE_FILE))


def test_grammar_words_are_one_token_and_others_split():
    tokenizer = build_tokenizer(words())
    for word in words():
        assert len(tokenizer.tokenize(word)) == 1, word
    for word in ("sks", "zwx", "ohwx", "42", "zwölf"):
        pieces = tokenizer.tokenize(word)
        assert len(pieces) > 1
        assert all(piece in tokenizer.get_vocab() for piece in pieces)
    ids = tokenizer("a photo of a sks dog, on the moon!").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == max(tokenizer.get_vocab().values())


def test_same_vocabulary_each_time_and_after_saving(tmp_path):
    first, second = build_tokenizer(words()), build_tokenizer(words())
    assert first.get_vocab() == second.get_vocab()
    first.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    text = "a photo of a sks dog on the beach"
    assert loaded(text).input_ids == first(text).input_ids
    assert loaded.model_max_length == TEXT_LENGTH


def test_added_words_stay_whole():
    tokenizer = build_tokenizer(["photo", "dog"])
    assert tokenizer.add_tokens("<my-dog>") == 1
    assert "<my-dog>" in tokenizer.tokenize("a photo of a <my-dog> dog")
