"""The tokenizer: exact both ways, and clear about folders and texts it cannot take."""

import codecs
import json
import os
from types import SimpleNamespace

import pytest

from conjure.errors import CheckpointError, DataError, UsageError
from conjure.lm.text.tokenizer import (
    _PIECE_CHARACTERS,
    END_OF_TEXT,
    IncrementalDecoder,
    Tokenizer,
    split_safely,
)
from support.models import TINY_VOCAB_SIZE, tiny_tokenizer

AWKWARD = [
    "",
    " ",
    "  two spaces, and a trailing one ",
    "\n\nlines\r\n\tand tabs\n",
    "don't , I 'm [ 1 , 2 ] .",
    "Привет, мир! Ёжик. 漢字かな 한국어 עברית",
    "e\u0301 o\u0308\u0323 👩‍👩‍👧 🇩🇪 🏳️‍🌈",
    "\x00\x01\x7f\x85\u2028\u180e\ufeff\U0010ffff",
    "def f(x):\n    return {'a': x['b'] ** 2}  # 0xFF",
    END_OF_TEXT,
]


@pytest.fixture
def folder(tmp_path):
    tiny_tokenizer().save(tmp_path)
    return tmp_path


def test_memory_that_is_not_there_says_nothing_of_the_file(folder, monkeypatch):
    def without_memory(*_arguments):
        raise MemoryError

    without = SimpleNamespace(Tokenizer=SimpleNamespace(from_file=without_memory))
    monkeypatch.setattr("conjure.lm.text.tokenizer.tokenizers", without)
    with pytest.raises(MemoryError):
        Tokenizer.from_folder(folder)


def test_a_file_with_a_byte_order_mark_is_read(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert Tokenizer.from_folder(folder).digest == tiny_tokenizer().digest


@pytest.mark.parametrize("special", [True, False])
def test_a_text_is_not_cut_inside_an_added_token(folder, special):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    token = {"id": TINY_VOCAB_SIZE, "content": "New York", "special": special}
    content["added_tokens"].append({**content["added_tokens"][0], **token})
    path.write_text(json.dumps(content), "utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.cut is None
    assert tiny_tokenizer().cut is tiny_tokenizer().kind.cut
    before = "a." * (_PIECE_CHARACTERS // 2 - 1)  # the first place to cut comes in the token
    ids = tokenizer.encode(f"{before}New York", allow_special=True)
    assert ids[-1] == TINY_VOCAB_SIZE


def test_ids_that_no_token_has_are_named_and_mean_nothing(folder):
    """Two holes below the largest id, and what a padded vocabulary has more."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    largest = vocabulary[last] + 2
    vocabulary[last] = largest
    content["added_tokens"] = []
    path.write_text(json.dumps(content), "utf-8")
    tokenizer = Tokenizer.from_folder(folder)
    known = {*Tokenizer.from_folder(folder)._backend.get_vocab(with_added_tokens=True).values()}
    assert tokenizer.vocab_size == max(known) + 1
    expected = [id_ for id_ in range(largest + 4) if id_ not in known]
    assert len(expected) >= 4
    assert tokenizer.ids_without_token(largest + 4) == expected
    assert tokenizer.decode_bytes([*expected, -1, 1 << 40]) == b""


@pytest.mark.parametrize("text", AWKWARD)
def test_text_comes_back_exactly(text):
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_batch_gives_what_single_texts_give():
    tokenizer = tiny_tokenizer()
    assert tokenizer.encode_batch(AWKWARD) == [tokenizer.encode(text) for text in AWKWARD]


def test_a_marker_in_a_text_is_text_unless_allowed():
    tokenizer = tiny_tokenizer()
    text = f"one{END_OF_TEXT}two"
    assert tokenizer.end_of_text_id not in tokenizer.encode(text)
    allowed = tokenizer.encode(text, allow_special=True)
    assert allowed == [*tokenizer.encode("one"), tokenizer.end_of_text_id, *tokenizer.encode("two")]
    assert tokenizer.decode(allowed) == text


def test_training_gives_the_bytes_the_merges_and_end_of_text_last():
    tokenizer = Tokenizer.train(["the cat and the hat"] * 3, 262)
    assert tokenizer.vocab_size == 262
    assert tokenizer.end_of_text_id == 261
    assert sorted(tokenizer.decode_bytes([id_]) for id_ in range(256)) == [bytes([b]) for b in range(256)]
    assert len(tokenizer.encode("the")) < 3


def test_training_gives_fewer_tokens_where_there_is_nothing_to_merge():
    assert Tokenizer.train(["ab"], 1000).vocab_size == 258


def test_training_is_repeatable():
    texts = [text * 3 for text in AWKWARD]
    assert Tokenizer.train(texts, 300).digest == Tokenizer.train(iter(texts), 300).digest


def test_training_refuses_a_vocabulary_without_room_for_all_bytes():
    with pytest.raises(UsageError, match=r"vocab_size is 256; .* at least 257"):
        Tokenizer.train(["text"], 256)


def test_half_a_surrogate_pair_is_refused_with_its_place():
    with pytest.raises(DataError, match=r"surrogate pair, U\+D83D, at character 2"):
        tiny_tokenizer().encode("ab\ud83d")
    with pytest.raises(DataError, match="at character 0"):
        tiny_tokenizer().encode_batch(["fine", "\udc80"])


def test_something_that_is_not_text_is_a_type_error():
    with pytest.raises(TypeError, match="text must be str, not bytes"):
        tiny_tokenizer().encode(b"bytes")


def test_ids_without_a_token_stand_for_no_text():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("ab")
    assert tokenizer.decode([-100, *ids, TINY_VOCAB_SIZE, 50_303]) == "ab"


def test_decoding_never_cleans_up_spaces():
    text = "I do not , he said ; [ 1 , 2 ] n't 's ."
    assert tiny_tokenizer().decode(tiny_tokenizer().encode(text)) == text


def test_incremental_decoding_gives_whole_characters_only():
    decoder = IncrementalDecoder(tiny_tokenizer())
    pieces = [decoder.feed(id_) for id_ in tiny_tokenizer().encode("a😀é")]
    assert "".join(pieces) == "a😀é"
    assert "\ufffd" not in "".join(pieces)
    assert decoder.flush() == ""


def test_incremental_decoding_flushes_what_never_became_whole():
    decoder = IncrementalDecoder(tiny_tokenizer())
    cut_off = tiny_tokenizer().encode("😀")[:-1]
    assert "".join(map(decoder.feed, cut_off)) == ""
    assert decoder.flush() == tiny_tokenizer().decode(cut_off) == "\ufffd"


@pytest.mark.parametrize(
    "run", ["a" * 300_000, "词语" * 50_000, "x, " * 100_000, "ab,cd" * 60_000, " " * 200_000]
)
@pytest.mark.slow
def test_a_very_long_line_is_exact(run):
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(run)
    assert tokenizer.decode(ids) == run
    assert ids == tokenizer._backend.encode(run, add_special_tokens=False).ids


def test_pieces_are_cut_as_soon_as_it_is_safe():
    assert list(split_safely("one two three", 2)) == ["one", " two", " three"]
    assert list(split_safely("don't", 1)) == ["don't"]
    assert list(split_safely("a,b", 1)) == ["a,", "b"]


class TestFromFolder:
    def test_what_was_saved_is_read_back(self, folder):
        assert Tokenizer.from_folder(folder).digest == tiny_tokenizer().digest

    @pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
    def test_vocabulary_and_merges_will_do(self, folder, tmp_path, names):
        (folder / "vocab.json").rename(tmp_path / names[0])
        (folder / "merges.txt").rename(tmp_path / names[1])
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        assert Tokenizer.from_folder(folder).digest == tiny_tokenizer().digest

    @pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "CodeGenTokenizer", "PreTrainedTokenizerFast"])
    def test_vocabulary_and_merges_of_another_kind_are_refused(self, folder, kind):
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({"tokenizer_class": kind}))
        assert Tokenizer.from_folder(folder).digest == tiny_tokenizer().digest
        (folder / "tokenizer.json").unlink()
        with pytest.raises(CheckpointError) as refused:
            Tokenizer.from_folder(folder)
        assert f"has tokenizer_class {kind!r}, and {folder} contains no tokenizer.json" in str(refused.value)
        path.write_text(json.dumps({"tokenizer_class": "GPT2TokenizerFast"}))
        assert Tokenizer.from_folder(folder).digest == tiny_tokenizer().digest

    def test_settings_for_other_tools_are_saved(self, tmp_path):
        tiny_tokenizer().save(tmp_path, context_length=64)
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        assert settings["model_max_length"] == 64
        assert settings["clean_up_tokenization_spaces"] is False
        assert settings["eos_token"] == END_OF_TEXT

    @pytest.mark.parametrize("says", ["tokenizer_config.json", "tokenizer.json"])
    def test_a_start_token_of_its_own_is_kept(self, folder, tmp_path, says):
        content = json.loads((folder / "tokenizer.json").read_text())
        added = {**content["added_tokens"][0], "id": TINY_VOCAB_SIZE, "content": "<s>"}
        content["added_tokens"].append(added)
        settings = {"bos_token": "<s>", "add_bos_token": True, "unk_token": "<none>"}
        if says == "tokenizer.json":
            first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
            content["post_processor"] = {
                "type": "TemplateProcessing",
                "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [TINY_VOCAB_SIZE], "tokens": ["<s>"]}},
            }
            settings = {}
        (folder / "tokenizer.json").write_text(json.dumps(content))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = Tokenizer.from_folder(folder)
        (tmp_path / "saved").mkdir()
        tokenizer.save(tmp_path / "saved")
        again = Tokenizer.from_folder(tmp_path / "saved")
        assert again.start_ids == tokenizer.start_ids == [TINY_VOCAB_SIZE]
        assert again.digest == tokenizer.digest
        assert again.named_special_tokens["bos_token"] == "<s>"
        assert again.named_special_tokens["unk_token"] == END_OF_TEXT  # there is no <none>

    def test_a_start_token_that_no_text_starts_with_is_kept(self, folder, tmp_path):
        (folder / "tokenizer_config.json").write_text('{"bos_token": "a"}')
        Tokenizer.from_folder(folder).save(tmp_path)
        again = Tokenizer.from_folder(tmp_path)
        assert (again.start_ids, again.named_special_tokens["bos_token"]) == ([], "a")

    def test_a_folder_without_one_says_what_is_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"contains no tokenizer: tokenizer\.json, or vocab\.json"):
            Tokenizer.from_folder(tmp_path)

    @pytest.mark.parametrize("content", ["", '{"model": ', "[]", "null", "[" * 100_000])
    def test_broken_json_is_named(self, folder, content):
        (folder / "tokenizer.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            Tokenizer.from_folder(folder)

    def test_a_vocabulary_that_merges_do_not_fit_is_named(self, folder):
        (folder / "tokenizer.json").unlink()
        (folder / "merges.txt").write_text("#version: 0.2\nnot there\n")
        with pytest.raises(CheckpointError, match="do not match"):
            Tokenizer.from_folder(folder)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"model": {"type": "WordPiece", "vocab": {}}}, "a WordPiece tokenizer"),
            ({"model": {"type": "BPE", "merges": [], "end_of_word_suffix": "</w>"}}, "marks parts of words"),
            (
                {"model": {"type": "BPE", "merges": [], "byte_fallback": True}},
                "pre-tokenizer ByteLevel",
            ),
            ({"pre_tokenizer": {"type": "Metaspace"}}, "unsupported pre-tokenizer Metaspace"),
            ({"pre_tokenizer": None}, "unsupported pre-tokenizer nothing"),
        ],
    )
    def test_another_kind_of_tokenizer_is_refused(self, folder, changes, said):
        settings = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps({**settings, **changes}))
        with pytest.raises(CheckpointError, match=said):
            Tokenizer.from_folder(folder)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"normalizer": {"type": "Lowercase"}}, r"normalizes text \(Lowercase\)"),
            ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip"}]}}, "normalizes text"),
            ({"normalizer": {"type": "Prepend", "prepend": " "}}, "normalizes text"),
        ],
    )
    def test_what_would_give_other_ids_is_refused(self, folder, change, said):
        settings = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps({**settings, **change}))
        with pytest.raises(CheckpointError, match=said):
            Tokenizer.from_folder(folder)

    def test_merges_left_out_at_random_are_refused(self, folder):
        settings = json.loads((folder / "tokenizer.json").read_text())
        settings["model"]["dropout"] = 0.1
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        with pytest.raises(CheckpointError, match="leaves out merges at random"):
            Tokenizer.from_folder(folder)

    @pytest.mark.parametrize("in_json", [False, True])
    @pytest.mark.parametrize("in_config", [None, False, True])
    @pytest.mark.parametrize("kind", [None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"])
    def test_a_space_in_front_is_refused_where_transformers_adds_it(self, folder, in_json, in_config, kind):
        settings = json.loads((folder / "tokenizer.json").read_text())
        settings["pre_tokenizer"]["add_prefix_space"] = in_json
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        config = {"tokenizer_class": kind, "add_prefix_space": in_config}
        said = {name: value for name, value in config.items() if value is not None}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        if in_json if kind == "PreTrainedTokenizerFast" else in_config:
            with pytest.raises(CheckpointError, match="asks for a space before every text"):
                Tokenizer.from_folder(folder)
        else:
            assert Tokenizer.from_folder(folder).encode("Hi") == tiny_tokenizer().encode("Hi")

    @pytest.mark.parametrize("wrong", [10**9, -1, 2**70, 1.5, "7", None, True])
    @pytest.mark.parametrize("place", ["vocab", "added", "vocab.json", "added_tokens.json"])
    def test_an_id_that_cannot_be_one_is_refused_at_once(self, folder, place, wrong):
        settings = json.loads((folder / "tokenizer.json").read_text())
        settings["model"]["vocab"]["odd"] = wrong if place == "vocab" else 299
        settings["added_tokens"][0]["id"] = wrong if place == "added" else TINY_VOCAB_SIZE - 1
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        if place.endswith(".json"):
            (folder / "tokenizer.json").unlink()
            content = json.loads((folder / "vocab.json").read_text()) if place == "vocab.json" else {}
            (folder / place).write_text(json.dumps({**content, "odd": wrong}))
        with pytest.raises(CheckpointError, match="ids are integers from 0 to 4,194,303"):
            Tokenizer.from_folder(folder)

    @pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
    def test_a_pipe_is_refused_not_waited_for(self, folder, name):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(CheckpointError, match="is not a regular file"):
            Tokenizer.from_folder(folder)

    def test_padding_and_truncation_are_switched_off(self, folder):
        settings = json.loads((folder / "tokenizer.json").read_text())
        settings["truncation"] = {
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.decode(tokenizer.encode("A Long Text")) == "A Long Text"

    def test_another_end_of_text_token_is_found_by_name(self, folder):
        settings = json.loads((folder / "tokenizer.json").read_text())
        settings["added_tokens"][0]["content"] = "</s>"
        settings["model"]["vocab"]["</s>"] = settings["model"]["vocab"].pop(END_OF_TEXT)
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        for eos in ("</s>", {"content": "</s>", "special": True}):
            (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
            tokenizer = Tokenizer.from_folder(folder)
            assert (tokenizer.end_of_text, tokenizer.end_of_text_id) == ("</s>", TINY_VOCAB_SIZE - 1)
        (folder / "tokenizer_config.json").unlink()
        (folder / "config.json").write_text(json.dumps({"eos_token_id": TINY_VOCAB_SIZE - 1}))
        assert Tokenizer.from_folder(folder).end_of_text == "</s>"

    def test_tokens_added_by_a_fine_tune_are_found(self, folder):
        (folder / "tokenizer.json").unlink()
        (folder / "added_tokens.json").write_text('{"<|b|>": 301, "<|a|>": 300}')
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.encode("<|a|><|b|>", allow_special=True) == [300, 301]
        assert tokenizer.decode([301]) == "<|b|>"
        assert 300 not in tokenizer.encode("<|a|>")
        (folder / "added_tokens.json").write_text('{"<|b|>": 305}')
        with pytest.raises(CheckpointError, match=r"gives '<\|b\|>' id 305; 300 is next"):
            Tokenizer.from_folder(folder)

    def test_a_vocabulary_without_end_of_text_is_refused(self, folder):
        (folder / "tokenizer.json").unlink()
        vocabulary = json.loads((folder / "vocab.json").read_text())
        del vocabulary[END_OF_TEXT]
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        with pytest.raises(CheckpointError, match="has no end-of-text token"):
            Tokenizer.from_folder(folder)

    def test_a_byte_without_a_token_is_refused_where_it_is_met(self, folder):
        (folder / "tokenizer.json").unlink()
        vocabulary = json.loads((folder / "vocab.json").read_text())
        vocabulary["<gone>"] = vocabulary.pop("~")
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        tokenizer = Tokenizer.from_folder(folder)
        assert tokenizer.encode("plain") == tiny_tokenizer().encode("plain")
        with pytest.raises(DataError, match=r"no token for byte 0x7e, which 'a ~ b' contains"):
            tokenizer.encode("a ~ b")


class TestTokensTheModelLacks:
    def with_token(self, folder, content, *, special):
        tiny_tokenizer().save(folder)
        settings = json.loads((folder / "tokenizer.json").read_text())
        added = {**settings["added_tokens"][0], "id": TINY_VOCAB_SIZE, "content": content, "special": special}
        settings["added_tokens"].append(added)
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        return Tokenizer.from_folder(folder)

    @pytest.mark.parametrize("special", [False, True])
    def test_an_added_one_more_is_taken_for_unusable(self, tmp_path, special):
        tokenizer = self.with_token(tmp_path, "[PAD]", special=special)
        assert tokenizer.vocab_size == TINY_VOCAB_SIZE + 1
        limited = tokenizer.limited_to(TINY_VOCAB_SIZE)
        assert limited.vocab_size == TINY_VOCAB_SIZE
        text = "a [PAD] b"
        assert (
            limited.encode(text) == limited.encode(text, allow_special=True) == tiny_tokenizer().encode(text)
        )

    def test_one_that_text_or_an_end_needs_is_refused(self):
        assert tiny_tokenizer().limited_to(TINY_VOCAB_SIZE - 1) is None
        assert tiny_tokenizer().limited_to(TINY_VOCAB_SIZE) is tiny_tokenizer()

    def test_ids_that_mean_nothing_are_known(self, tmp_path):
        tokenizer = self.with_token(tmp_path, "[PAD]", special=True)
        assert tokenizer.ids_without_token(TINY_VOCAB_SIZE + 3) == [TINY_VOCAB_SIZE + 1, TINY_VOCAB_SIZE + 2]
        assert tiny_tokenizer().ids_without_token(TINY_VOCAB_SIZE) == []
