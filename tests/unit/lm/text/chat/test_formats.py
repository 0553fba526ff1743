"""Every format is found by its keys, and what is no conversation is counted with its reason."""

import json

import pytest

from conjure.errors import DataError, UsageError
from conjure.lm.text.chat.formats import (
    ChatFormat,
    Message,
    find_format,
    read_conversation,
    text_of_content,
)
from conjure.lm.text.records import read_records
from conjure.lm.text.table_reader import ColumnSample, Fault

USER, ANSWER = Message("user", "Where?"), Message("assistant", "Here.")
MESSAGES = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}]
RECORDS = {
    ChatFormat.MESSAGES: {"messages": MESSAGES},
    ChatFormat.SHAREGPT: {
        "conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]
    },
    ChatFormat.PROMPT: {"prompt": "Where?", "completion": "Here."},
    ChatFormat.ALPACA: {"instruction": "Where?", "input": "", "output": "Here."},
}


def written(path, *records):
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("format_", RECORDS)
def test_each_format_gives_the_same_conversation(tmp_path, format_):
    records = read_records([written(tmp_path / "chat.jsonl", RECORDS[format_])])
    assert records.chat_formats == {format_}
    (piece,) = records.pieces()
    assert piece.conversation.messages == (USER, ANSWER)
    assert piece.conversation.where == f"{tmp_path / 'chat.jsonl'}, line 1"
    assert piece.text == "Where?\nHere."


def test_json_parquet_and_csv_hold_conversations_too(tmp_path):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "one.json").write_text(json.dumps({"messages": MESSAGES}))
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": MESSAGES}]), tmp_path / "two.parquet")
    (tmp_path / "three.csv").write_text("prompt,completion\nWhere?,Here.\n")
    records = read_records([tmp_path / "one.json", tmp_path / "two.parquet", tmp_path / "three.csv"])
    assert [piece.conversation.messages for piece in records.pieces()] == [(USER, ANSWER)] * 3


def test_a_conversation_that_may_be_cut_is_left_out_but_not_for_another_column(tmp_path):
    rows = "Where?,Here.,web\nHow?,Thus.,web,\n"
    (tmp_path / "source.csv").write_text(f"prompt,completion,source\n{rows}")
    records = read_records([tmp_path / "source.csv"])
    assert [piece.text for piece in records.pieces()] == ["Where?\nHere.", "How?\nThus."]
    assert not records.bad_rows
    for last in ("system", "tools"):
        (tmp_path / "last.csv").write_text(f"prompt,completion,{last}\nWhere?,Here.,\nHow?,Thus.,Be brief,\n")
        records = read_records([tmp_path / "last.csv"])
        assert [piece.text for piece in records.pieces()] == ["Where?\nHere."]
        assert records.bad_rows[Fault.TOO_MANY_FIELDS].number == 3


def test_what_is_plain_text_is_no_conversation(tmp_path):
    text = ColumnSample(["a"], holds_text=True)
    assert find_format({"messages": text, "text": text}) is None
    assert find_format({"prompt": text, "text": text}) is None
    file = written(tmp_path / "chat.jsonl", RECORDS[ChatFormat.PROMPT])
    records = read_records([file], column="completion")
    assert not records.chat_formats
    assert list(records) == ["Here."]
    (tmp_path / "notes.txt").write_text("plain")
    with pytest.raises(UsageError, match=r"contains conversations \(prompt/completion\) and .*plain text"):
        read_records([file, tmp_path / "notes.txt"])


@pytest.mark.parametrize("format_", RECORDS)
@pytest.mark.parametrize("place", [0, 3])
def test_a_stray_row_of_text_is_left_out_of_a_file_of_conversations(tmp_path, format_, place):
    rows = [RECORDS[format_]] * 3
    rows.insert(place, {"messages": "n/a", "text": "Nobody was at home."})
    records = read_records([written(tmp_path / "chat.jsonl", *rows)])
    assert records.chat_formats == {format_}
    assert [piece.conversation.messages for piece in records.pieces()] == [(USER, ANSWER)] * 3
    (bad,) = records.bad_rows.values()
    faults = {ChatFormat.MESSAGES: Fault.NOT_MESSAGES, ChatFormat.ALPACA: Fault.NO_ANSWER}
    assert (bad.fault, bad.count, bad.number) == (faults.get(format_, Fault.MISSING_COLUMN), 1, place + 1)


@pytest.mark.parametrize("stray", RECORDS.values())
def test_a_stray_conversation_is_left_out_of_a_file_of_text(tmp_path, stray):
    rows = [{"id": 1, "text": "Nobody was at home."}, stray, {"id": 2, "text": "It rained all day."}]
    records = read_records([written(tmp_path / "text.jsonl", *rows)])
    assert not records.chat_formats
    assert list(records) == ["Nobody was at home.", "It rained all day."]
    assert [bad.fault for bad in records.bad_rows.values()] == [Fault.MISSING_COLUMN]


def test_conversations_among_rows_without_any_text_are_read(tmp_path):
    rows = [{"id": 1}, {"id": 2}, {"messages": MESSAGES}]
    records = read_records([written(tmp_path / "chat.jsonl", *rows)])
    assert len(list(records.pieces())) == 1
    assert records.bad_rows[Fault.MISSING_COLUMN].count == 2


def of(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (of(("user", "a")), Fault.NO_ANSWER),
        (of(("system", "a")), Fault.NO_ANSWER),
        (of(("assistant", "a"), ("user", "b")), Fault.ROLES),
        (of(("user", "a"), ("user", "b"), ("assistant", "c")), Fault.ROLES),
        (of(("user", "a"), ("system", "b"), ("assistant", "c")), Fault.ROLES),
        (of(("user", "a"), ("tool", "b")), Fault.UNKNOWN_ROLE),
        (of(("user", "a"), ("assistant", " ")), Fault.EMPTY_ANSWER),
        (of(("user", "a"), ("assistant", None)), Fault.NOT_TEXT),
        (of(("user", "a\0"), ("assistant", "b")), Fault.NUL),
        ({"messages": []}, Fault.NOT_MESSAGES),
        ({"messages": ["a"]}, Fault.NOT_MESSAGES),
        ({}, Fault.MISSING_COLUMN),
    ],
)
def test_a_record_without_a_usable_answer_has_a_fault(record, fault):
    assert read_conversation(record, ChatFormat.MESSAGES) is fault


def test_other_formats_have_faults_too():
    assert read_conversation({"prompt": "a"}, ChatFormat.PROMPT) is Fault.NO_ANSWER
    assert read_conversation({"completion": "a"}, ChatFormat.PROMPT) is Fault.MISSING_COLUMN
    assert read_conversation({"instruction": "a"}, ChatFormat.ALPACA) is Fault.NO_ANSWER
    assert read_conversation({"instruction": 1, "output": "a"}, ChatFormat.ALPACA) is Fault.NOT_TEXT
    asked = read_conversation({"instruction": "a", "input": "b", "output": "c"}, ChatFormat.ALPACA)
    assert asked == (Message("user", "a\n\nb"), Message("assistant", "c"))
    empty = {**RECORDS[ChatFormat.ALPACA], "input": float("nan")}
    assert read_conversation(empty, ChatFormat.ALPACA) == (USER, ANSWER)
    lists = {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}
    assert read_conversation(lists, ChatFormat.PROMPT) == (USER, ANSWER)


def chat(*turns, **keys):
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return {
        "messages": [{"role": roles[role], "content": text, **keys_} for role, text, keys_ in turns],
        **keys,
    }


def test_a_system_message_and_a_history_apart_from_the_turns_are_part_of_the_conversation(tmp_path):
    system = Message("system", "Be brief.")
    earlier = [Message("user", "Who?"), Message("assistant", "I.")]
    for format_, record in RECORDS.items():
        for key in ("system", "system_prompt"):
            assert read_conversation({**record, key: "Be brief."}, format_) == (system, USER, ANSWER)
            for nothing in (None, "", " ", float("nan")):
                assert read_conversation({**record, key: nothing}, format_) == (USER, ANSWER)
            assert read_conversation({**record, key: ["a"]}, format_) is Fault.NOT_TEXT
    twice = chat(("s", "a", {}), ("u", "b", {}), ("a", "c", {}), system="d")
    assert read_conversation(twice, ChatFormat.MESSAGES) is Fault.ROLES
    same = chat(("s", "d", {}), ("u", "Where?", {}), ("a", "Here.", {}), system="d", system_prompt="d")
    assert read_conversation(same, ChatFormat.MESSAGES) == (Message("system", "d"), USER, ANSWER)
    spaced = {**same, "system": "d\n", "system_prompt": " d"}
    assert read_conversation(spaced, ChatFormat.MESSAGES) == (Message("system", "d"), USER, ANSWER)
    alpaca = {**RECORDS[ChatFormat.ALPACA], "system": "Be brief."}
    found = read_conversation({**alpaca, "history": [["Who?", "I."]]}, ChatFormat.ALPACA)
    assert found == (system, *earlier, USER, ANSWER)
    for nothing in (None, [], "", "[]", float("nan")):
        assert read_conversation({**alpaca, "history": nothing}, ChatFormat.ALPACA) == (system, USER, ANSWER)
    for bad, fault in (
        ("Who?", Fault.NOT_PAIRS),
        ([["Who?"]], Fault.NOT_PAIRS),
        ([["a", 1]], Fault.NOT_TEXT),
    ):
        assert read_conversation({**alpaca, "history": bad}, ChatFormat.ALPACA) is fault


TEXT = {"type": "text", "text": "Where"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Where", "Where"),
        ([TEXT], "Where"),
        ([TEXT, {"type": "text", "text": "?", "image_url": None}], "Where?"),
        ([{"type": "text", "text": ""}], ""),
        ([TEXT, {"type": "image_url", "image_url": {"url": "a"}}], None),
        ([{**TEXT, "image_url": {"url": "a"}}], None),
        ([{"type": "image", "text": "a"}], None),
        ([{"type": "text", "text": 1}], None),
        ([{"text": "a"}], None),
        (["a"], None),
        ([[TEXT]], None),
        ([], None),
        (TEXT, None),
        (1, None),
        (None, None),
    ],
)
def test_content_may_be_a_list_of_texts(content, said):
    assert text_of_content(content) == said
    question = {"role": "user", "content": content}
    found = read_conversation({"messages": [question, MESSAGES[1]]}, ChatFormat.MESSAGES)
    assert found == (Fault.NOT_TEXT if said is None else (Message("user", said), ANSWER))


def test_parts_of_a_parquet_table_have_the_keys_of_all(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parts = [[TEXT], [TEXT, {"type": "image_url", "image_url": {"url": "a"}}]]
    rows = [
        {"messages": [{"role": "user", "content": each}, {**MESSAGES[1], "content": [{**TEXT}]}]}
        for each in parts
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "chat.parquet")
    records = read_records([tmp_path / "chat.parquet"])
    (piece,) = records.pieces()
    assert piece.text == "Where\nWhere"
    assert records.bad_rows[Fault.NOT_TEXT].count == 1


@pytest.mark.parametrize("weight", [0, 0.0, 1, 1.0, None])
def test_an_answer_of_weight_0_is_given_and_not_learned(weight):
    turns = [("u", "a", {}), ("a", "b", {"weight": weight}), ("u", "c", {}), ("a", "d", {})]
    found = read_conversation(chat(*turns), ChatFormat.MESSAGES)
    assert [message.is_learned for message in found] == [True, weight != 0, True, True]
    only = chat(("u", "a", {}), ("a", "b", {"weight": 0}))
    assert read_conversation(only, ChatFormat.MESSAGES) is Fault.NO_ANSWER


@pytest.mark.parametrize("weight", [0.5, -1, 2, "0", [1]])
def test_other_weights_are_a_fault(weight):
    record = chat(("u", "a", {}), ("a", "b", {"weight": weight}))
    assert read_conversation(record, ChatFormat.MESSAGES) is Fault.WEIGHT


@pytest.mark.parametrize(
    ("of_answer", "of_record", "fault"),
    [
        ({"tool_calls": [{"id": "1"}]}, {}, Fault.TOOLS),
        ({"function_call": {"name": "f", "arguments": "{}"}}, {}, Fault.TOOLS),
        ({"reasoning_content": "Let me think."}, {}, Fault.REASONING),
        ({"thinking": "Let me think."}, {}, Fault.REASONING),
        ({"reasoning": "Let me think."}, {}, Fault.REASONING),
        ({"thinking": False, "reasoning": None}, {}, None),
        ({"images": ["aGk="]}, {}, Fault.MEDIA),
        *(({}, {key: "a.png"}, Fault.MEDIA) for key in ("image", "video", "audio")),
        *(({}, {key: [{"bytes": b"a"}]}, Fault.MEDIA) for key in ("images", "videos", "audios")),
        ({"images": []}, {"images": None, "audio": {"bytes": None, "path": None}}, None),
        ({}, {"tools": [{"type": "function"}]}, Fault.TOOLS),
        ({}, {"tools": '[{"type": "function"}]'}, Fault.TOOLS),
        ({"tool_calls": [], "function_call": {"name": None}, "reasoning_content": ""}, {"tools": "[]"}, None),
        ({"tool_calls": None, "reasoning_content": None}, {"tools": None}, None),
    ],
)
def test_parts_of_a_conversation_that_have_no_place_in_it_are_a_fault(of_answer, of_record, fault):
    record = chat(("u", "Where?", {}), ("a", "Here.", of_answer), **of_record)
    found = read_conversation(record, ChatFormat.MESSAGES)
    assert found == (USER, ANSWER) if fault is None else found is fault


def test_faults_are_counted_and_alone_are_an_error(tmp_path):
    records = read_records([written(tmp_path / "chat.jsonl", {"messages": MESSAGES}, of(("user", "a")))])
    assert len(list(records.pieces())) == 1
    (bad,) = records.bad_rows.values()
    assert records.describe(bad) == f"1 × no answer to train on (first: {tmp_path / 'chat.jsonl'}, line 2)"
    only = read_records([written(tmp_path / "bad.jsonl", of(("user", "a")))])
    with pytest.raises(DataError, match="contains no usable records: 1 × no answer to train on"):
        list(only.pieces())


def test_one_bad_message_leaves_out_its_own_record_only(tmp_path):
    bad = [
        {"messages": [{"role": ["user"], "content": "Where?"}, MESSAGES[1]]},
        {"messages": [{"role": "user", "content": "\ud800?"}, MESSAGES[1]]},
    ]
    good = {"messages": [{"role": "user", "content": "Where\r\nnow?"}, MESSAGES[1]]}
    file = tmp_path / "chat.jsonl"
    file.write_bytes(
        "".join(f"{json.dumps(each)}\n" for each in [*bad, good]).encode()
        + b'{"messages": [{"role": "user", "content": "caf\xe9"}, {"role": "assistant", "content": "No"}]}\n'
    )
    records = read_records([file])
    (piece,) = records.pieces()
    assert piece.conversation.messages == (Message("user", "Where\nnow?"), ANSWER)
    assert {fault: found.count for fault, found in records.bad_rows.items()} == {
        Fault.UNKNOWN_ROLE: 1,
        Fault.WRONG_ENCODING: 2,
    }
