"""A rebuilt tokenizer gives the ids the vocabulary means."""

import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from conjure.errors import ModelError
from conjure.lm.checkpoints.gguf.vocabulary import pre_tokenizer_name, tokenizer_files
from support.models import tiny_tokenizer

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def files(keys, vocabulary=1000):
    given_keys = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    return tokenizer_files(given_keys, vocabulary=vocabulary, context=64)


def backend(keys):
    return tokenizers.Tokenizer.from_str(json.dumps(files(keys).tokenizer))


def byte_level(**changes):
    tokenizer = tiny_tokenizer()
    return {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokenizer.tokens,
        "token_type": [NORMAL] * 299 + [CONTROL],
        "merges": tokenizer.merges,
        "eos_token_id": 299,
        **changes,
    }


def sentence_piece(**changes):
    pieces = {"▁": -9.0, "a": -8.0, "b": -7.0, "c": -7.5, "ab": -3.0, "bc": -2.0, "▁a": -4.0, "▁abc": -1.0}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + list(pieces.values()),
        "token_type": [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


@given(st.text())
def test_gpt2_s_own_kind_is_what_it_was(text):
    ids = backend(byte_level()).encode(text, add_special_tokens=False).ids
    assert ids == tiny_tokenizer().encode(text)


def spelled(keys, text):
    return backend(keys).encode(text, add_special_tokens=False).tokens


class TestSplits:
    def test_smollm_takes_digits_apart(self):
        merges = [*tiny_tokenizer().merges, "1 2"]
        tokens = [*tiny_tokenizer().tokens[:299], "12", "<|endoftext|>"]
        keys = byte_level(
            tokens=tokens, merges=merges, token_type=[NORMAL] * 300 + [CONTROL], eos_token_id=300
        )
        assert spelled(keys, "12") == ["12"]
        assert spelled({**keys, "pre": "smollm"}, "12") == ["1", "2"]
        assert spelled({**keys, "pre": "qwen2"}, "12") == ["1", "2"]
        assert spelled({**keys, "pre": "llama-bpe"}, "12") == ["12"]

    def test_qwen_and_neox_compose(self):
        for name, length in [("gpt-2", 3), ("smollm", 3), ("llama-bpe", 3), ("qwen2", 2), ("olmo", 2)]:
            # e and a combining accent: 1 + 2 bytes, or composed into one character of 2.
            assert len(spelled(byte_level(pre=name), "e\u0301")) == length, name

    def test_deepseek_s_qwen_does_not(self):
        assert len(spelled(byte_level(pre="deepseek-r1-qwen"), "e\u0301")) == 3

    def test_its_name_is_found_however_the_steps_are_nested(self):
        for name in ("gpt-2", "olmo", "smollm", "llama-bpe", "qwen2", "deepseek-r1-qwen"):
            content = dict(files(byte_level(pre=name)).tokenizer)
            assert pre_tokenizer_name(content) == name
            for part, steps in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
                inner = [] if content[part] is None else [content[part]]
                nested = {"type": "Sequence", steps: inner}
                content[part] = {"type": "Sequence", steps: [nested]}
            assert pre_tokenizer_name(content) == name

    def test_steps_that_nobody_knows_have_no_name(self):
        content = dict(files(byte_level(pre="qwen2")).tokenizer)
        two_forms = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}
        assert pre_tokenizer_name({**content, "normalizer": two_forms}) is None
        assert pre_tokenizer_name({**content, "pre_tokenizer": None}) is None

    def test_llama3_takes_a_word_that_is_a_token_whole(self):
        tokens = [*tiny_tokenizer().tokens[:299], "xyz", "<|endoftext|>"]
        keys = byte_level(tokens=tokens, token_type=[NORMAL] * 300 + [CONTROL], eos_token_id=300)
        assert spelled({**keys, "pre": "llama-bpe"}, "xyz") == ["xyz"]
        assert spelled(keys, "xyz") == ["x", "y", "z"]

    def test_an_unknown_name_is_refused_and_so_is_none(self):
        for name in ("tekken", None):
            with pytest.raises(ModelError, match=r"tokenizer\.ggml\.pre"):
                files(byte_level(pre=name))


class TestSentencePiece:
    def test_the_better_score_merges_first(self):
        keys = sentence_piece(add_space_prefix=False)
        assert spelled(keys, "abc") == ["a", "bc"]  # bc is better than ab

    def test_what_has_no_piece_is_bytes(self):
        keys = sentence_piece(add_space_prefix=False)
        assert spelled(keys, "é") == ["<0xC3>", "<0xA9>"]
        assert backend(keys).decode(backend(keys).encode("aé b", add_special_tokens=False).ids) == "aé b"

    def test_a_space_is_put_before_the_text_and_taken_away_again(self):
        tokenizer = backend(sentence_piece())
        ids = tokenizer.encode("ab a", add_special_tokens=False).ids
        assert tokenizer.decode(ids) == "ab a"

    def test_it_starts_with_bos_by_itself(self):
        written = files(sentence_piece())
        assert written.config["add_bos_token"] is True
        assert backend(sentence_piece()).encode("ab").ids[0] == 1

    def test_scores_and_bytes_must_be_there(self):
        with pytest.raises(ModelError, match="267 tokens and 3 scores"):
            files(sentence_piece(scores=[0.0] * 3))
        with pytest.raises(ModelError, match="has only 255 of the 256 byte tokens"):
            files(
                sentence_piece(token_type=[UNKNOWN, CONTROL, CONTROL, NORMAL, *[BYTE] * 255, *[NORMAL] * 8])
            )


class TestSpecialTokens:
    def test_control_tokens_are_special_and_user_defined_ones_are_not(self):
        tokens = [*tiny_tokenizer().tokens, "<think>"]
        keys = byte_level(tokens=tokens, token_type=[NORMAL] * 299 + [CONTROL, USER])
        added = {each["content"]: each["special"] for each in files(keys).tokenizer["added_tokens"]}
        assert added == {"<|endoftext|>": True, "<think>": False}
        assert backend(keys).encode("a<think>").ids[-1] == 300

    def test_all_ends_are_noted(self):
        keys = byte_level(eos_token_id=299, eot_token_id=298, eom_token_id=299)
        assert files(keys).generation == {"bos_token_id": None, "eos_token_id": [299, 298]}
        assert files(byte_level()).generation["eos_token_id"] == 299

    @pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "llama-v3"])
    def test_llama_3_starts_with_bos_unless_the_file_says_otherwise(self, pre):
        keys = byte_level(pre=pre, bos_token_id=299)
        assert files(keys).config["add_bos_token"] is True
        assert backend(keys).encode("ab").ids[0] == 299
        assert files({**keys, "add_bos_token": False}).config["add_bos_token"] is False
        assert files({**keys, "pre": "gpt-2"}).config["add_bos_token"] is False

    def test_padding_and_unknown_that_are_no_tokens_are_passed_over(self):
        keys = byte_level(padding_token_id=300, unknown_token_id=5000, bos_token_id=299)
        assert files(keys).config.keys() & {"pad_token", "unk_token"} == set()
        known = files({**keys, "padding_token_id": 298, "unknown_token_id": 299}).config
        assert (known["pad_token"], known["unk_token"]) == (keys["tokens"][298], "<|endoftext|>")
        with pytest.raises(ModelError, match=r"bos_token_id is 300, which is not a token"):
            files({**keys, "bos_token_id": 300})

    def test_a_token_that_is_no_token_is_refused(self):
        with pytest.raises(ModelError, match=r"a token of 1,025 characters; at most 1,024 are allowed"):
            files(byte_level(tokens=["a" * 1025, *tiny_tokenizer().tokens[1:]]))
        empty = {"tokens": ["", "[PAD1]"], "token_type": [NORMAL, UNUSED], "merges": []}
        with pytest.raises(ModelError, match="only empty tokens"):
            files(byte_level(**empty))

    def test_filling_is_no_token(self):
        tokens = [*tiny_tokenizer().tokens, "[PAD300]", "[PAD301]"]
        keys = byte_level(tokens=tokens, token_type=[NORMAL] * 299 + [CONTROL, UNUSED, UNUSED])
        assert backend(keys).get_vocab_size() == 300

    def test_ids_stay_where_a_hole_lies_before_them(self):
        tokens = [*tiny_tokenizer().tokens, "[PAD300]", "<extra>"]
        keys = byte_level(tokens=tokens, token_type=[NORMAL] * 299 + [CONTROL, UNUSED, CONTROL])
        assert backend(keys).token_to_id("<extra>") == 301

    def test_the_template_goes_along(self):
        assert files(byte_level(), 300).config.get("chat_template") is None
        given_keys = {f"tokenizer.ggml.{key}": value for key, value in byte_level().items()}
        written = tokenizer_files(
            {**given_keys, "tokenizer.chat_template": "{{ x }}"}, vocabulary=300, context=8
        )
        assert written.config["chat_template"] == "{{ x }}"
