"""The tokenizer: grammar words are whole, all other words split, nothing is unknown."""

from transformers import CLIPTokenizer

from pcs_mini.tokenizer import LENGTH, build_tokenizer, learn_merges
from pcs_mini.world.captions import vocabulary


def test_grammar_words_are_one_token_and_others_split():
    tokenizer = build_tokenizer()
    for word in vocabulary():
        assert len(tokenizer.tokenize(word)) == 1, word
    for word in ("sks", "zwx", "ohwx", "unicorn", "42", "zwölf"):
        pieces = tokenizer.tokenize(word)
        assert len(pieces) > 1
        assert all(piece in tokenizer.get_vocab() for piece in pieces)
    ids = tokenizer("a photo of a sks dog, on the moon!").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == max(tokenizer.get_vocab().values())


def test_same_vocabulary_each_time_and_after_saving(tmp_path):
    first, second = build_tokenizer(), build_tokenizer()
    assert first.get_vocab() == second.get_vocab()
    first.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    text = "a photo of a sks dog on the beach"
    assert loaded(text).input_ids == first(text).input_ids
    assert loaded.model_max_length == LENGTH


def test_added_words_stay_whole():
    tokenizer = build_tokenizer()
    assert tokenizer.add_tokens("<my-dog>") == 1
    assert "<my-dog>" in tokenizer.tokenize("a photo of a <my-dog> dog")


def test_merges_make_whole_words():
    merges = learn_merges(["photo", "house", "hot"])
    assert {"photo</w>", "house</w>", "hot</w>"} <= {a + b for a, b in merges}
