"""Chats in every form that is read, what is wrong with some of them, and the real files."""

import json
import os
from pathlib import Path

import pytest

import trunkline as tl
from trunkline.data.columns import Columns
from trunkline.data.formats import Form, open_table
from trunkline.data.readers.chat import as_dialogues, shown
from trunkline.data.readers.documents import open_documents
from trunkline.errors import DataError, OptionError
from trunkline.types import Problem

DATA = Path(os.environ.get("TRUNKLINE_DATA", "../shared/data"))
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"


def read(source, told=None, **options):
    told = told or Columns()
    table, told = open_documents(source, Form(), told) or (open_table(source, Form()), told)
    table, columns = as_dialogues(table, told, **options)
    found = list(table.records)
    return (
        [r for _, r in (one for one in found if not isinstance(one, Problem))],
        [o for o in found if isinstance(o, Problem)],
        table,
        columns,
    )


def rows(*records, **options):
    found, problems, _, _ = read(list(records), **options)
    assert not problems
    return found


def problem(record, **options):
    """What is said of a bad record that stands behind a good one of its form."""
    found, problems, _, _ = read([record, record], **options)
    assert not found
    assert [one.line for one in problems] == [1, 2]
    return problems[0].reason


def turns(*messages):
    return [{"role": role, "content": content} for role, content in messages]


def chat(*messages, **more):
    return {"messages": turns(*messages), **more}


def test_openai_messages_a_row_for_each_answer() -> None:
    record = chat((SYSTEM, "Be short."), (USER, "Hi"), (ASSISTANT, "Hello"), (USER, "Bye"), (ASSISTANT, "So long"))
    first, second = rows(record)
    assert first["messages"] == record["messages"][:2]
    assert first["label"] == "Hello"
    assert first["text"] == "System: Be short.\nUser: Hi"
    assert second["messages"] == record["messages"][:4]
    assert second["label"] == "So long"
    assert first["group"] == second["group"]
    assert rows(record, turns="last") == [second]


def test_rows_of_dialogues_that_begin_alike_are_one_group() -> None:
    one, other, third = rows(*(chat((USER, text), (ASSISTANT, "a")) for text in ("My  card", "my card", "my cat")))
    assert one["group"] == other["group"] != third["group"]


def test_sharegpt_with_calls_of_functions() -> None:
    record = {
        "conversations": [
            {"from": "human", "value": "Invoice?"},
            {"from": "function_call", "value": '{"name": "make"}'},
            {"from": "observation", "value": "done"},
            {"from": "gpt", "value": "Made."},
        ],
        "system": "You make invoices.",
        "tools": '[{"name": "make"}]',
    }
    call, answer = rows(record)
    assert call["label"] == '{"name": "make"}'
    assert [message["role"] for message in answer["messages"]] == [SYSTEM, USER, ASSISTANT, "tool"]
    assert answer["label"] == "Made."
    assert answer["tools"] == '[{"name": "make"}]'


def test_openai_tool_calls_and_parts_of_text() -> None:
    call = {"role": ASSISTANT, "content": None, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    parts = {"role": USER, "content": [{"type": "text", "text": "What "}, {"type": "text", "value": "now?"}]}
    (row,) = rows({"messages": [parts, call], "tools": [{"name": "f"}]})
    assert row["text"] == "What now?"
    assert json.loads(row["label"]) == {"name": "f", "arguments": "{}"}
    assert json.loads(row["tools"]) == [{"name": "f"}]


def test_alpaca() -> None:
    record = {"instruction": "Translate.", "input": "cat", "output": "猫", "system": "You translate.", "history": [["dog", "狗"]]}
    first, last = rows(record)
    assert first["label"] == "狗"
    assert last["messages"] == turns((SYSTEM, "You translate."), (USER, "dog"), (ASSISTANT, "狗"), (USER, "Translate.\ncat"))
    assert last["label"] == "猫"
    (row,) = rows({"instruction": "Say hi", "input": "", "output": "hi"})
    assert (row["text"], row["label"]) == ("Say hi", "hi")


@pytest.mark.parametrize(
    ("record", "text", "label"),
    [
        ({"question": "1+1?", "answer": "2"}, "1+1?", "2"),
        ({"department": "a", "ask": "疼", "answer": "休息"}, "疼", "休息"),
        ({"prompt": "def f():\n", "canonical_solution": "    return 1\n"}, "def f():\n", "    return 1\n"),
        ({"input": "a", "output": "b"}, "a", "b"),
        ({"text": "a", "label": "b"}, "a", "b"),
        ({"messages": turns((USER, "a")), "label": "b"}, "a", "b"),  # our own rows
    ],
)
def test_two_columns(record, text, label) -> None:
    (row,) = rows(record)
    assert (row["text"], row["label"], row["messages"]) == (text, label, turns((USER, text)))


def test_told_columns_win() -> None:
    found, _, table, columns = read([{"prompt": "a", "output": "b", "q": "c", "r": "d"}], Columns(text="q", label="r", id="prompt"))
    assert (found[0]["text"], found[0]["label"], found[0]["prompt"]) == ("c", "d", "a")
    assert not table.notes
    assert columns == Columns(text="text", label="label", id="prompt", group="group")
    with pytest.raises(OptionError, match="Did you mean 'prompt'"):
        read([{"prompt": "a", "output": "b"}], Columns(text="promt"))


def test_a_guess_is_said() -> None:
    _, _, table, _ = read([{"question": "a", "answer": "b"}])
    assert table.notes == ["Guessed: text = column 'question', label = column 'answer'. To choose, give text and label yourself."]


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {"prompt": turns((USER, "q")), "chosen": turns((ASSISTANT, "good")), "rejected": turns((ASSISTANT, "bad"))},
        {"prompt": "q", "chosen": turns((USER, "q"), (ASSISTANT, "good")), "rejected": turns((USER, "q"), (ASSISTANT, "bad"))},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    ],
)  # fmt: skip
def test_preferences(record) -> None:
    (row,) = rows(record)
    assert (row["text"], row["label"], row["rejected"]) == ("q", "good", "bad")


def test_preference_of_answers_in_two_pieces_keeps_both_whole() -> None:
    (row,) = rows(
        {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: a\n\nAssistant: bad"}
    )
    assert (row["label"], row["rejected"]) == ("a\ngood", "a\nbad")


def test_a_chosen_answer_may_be_json() -> None:
    (row,) = rows({"prompt": "q", "chosen": '{"name": "f"}', "rejected": '[{"a": 1}]'})
    assert (row["label"], row["rejected"]) == ('{"name": "f"}', '[{"a": 1}]')


@pytest.mark.parametrize(
    "record",
    [chat((USER, "q"), (ASSISTANT, "a"), label=False), {"prompt": "q", "completion": "a", "label": False}, {"instruction": "q", "output": "a", "kto_tag": False}],
)  # fmt: skip
def test_liked_or_not(record) -> None:
    (row,) = rows(record)
    assert (row["text"], row["label"], row["liked"]) == ("q", "a", False)


def test_neighbours_of_one_speaker_are_joined_and_noted() -> None:
    found, _, table, _ = read([chat((USER, "a"), (USER, "b"), (ASSISTANT, "c")), chat((USER, "a"), (ASSISTANT, "c"))])
    assert found[0]["text"] == "a\nb"
    assert "Dialogues in which neighbouring messages of one speaker were joined: 1 (the first at 1)." in table.notes


def test_what_follows_the_last_answer_is_left_out_and_noted() -> None:
    found, _, table, _ = read([chat((USER, "a"), (ASSISTANT, "b"), (USER, "thanks"))])
    assert len(found) == 1
    assert any("go on after the last answer" in note for note in table.notes)


def test_for_prediction_a_dialogue_is_one_prompt() -> None:
    dialogue = chat((USER, "a"), (ASSISTANT, "b"), (USER, "c"))
    (row,) = rows(dialogue, labelled=False)
    assert row["messages"] == dialogue["messages"]
    assert "label" not in row
    (row,) = rows(chat((USER, "a"), (ASSISTANT, "b")), labelled=False)
    assert (row["text"], row["label"]) == ("a", "b")
    (row,) = rows({"instruction": "Do", "input": "it", "output": ""}, labelled=False)
    assert row["messages"] == turns((USER, "Do\nit"))
    assert read([dialogue], labelled=False)[3].label is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (chat((USER, "a"), (ASSISTANT, " ")), "the answer (message 2) is empty"),
        (chat((USER, ""), (ASSISTANT, "a")), "the user's message (message 1) is empty"),
        (chat((USER, "a"), ("narrator", "b")), "message 2 is of 'narrator', which is no known role"),
        (chat((ASSISTANT, "a"), (USER, "b"), (ASSISTANT, "c")), "an answer stands before the first question"),
        (chat((SYSTEM, "a"), ("tool", "b"), (ASSISTANT, "c")), "the result of a tool stands before the first question"),
        (chat((SYSTEM, "a")), "there is no question"),
        (chat((USER, "a")), "there is no answer"),
        (chat((USER, "a\x00"), (ASSISTANT, "b")), "U+0000 at character 2"),
        ({"messages": ["hello"]}, "message 1 is a str, not an object"),
        ({"messages": [{"role": USER, "content": [{"type": "image_url"}]}]}, "message 1 holds a part of type 'image_url'; only text is read"),
        ({"messages": [{"role": USER, "content": 3}]}, "the user's message (message 1) is a int, not a string"),
        ({"messages": [{"role": USER, "content": None}]}, "the user's message (message 1) is missing"),
        ({"instruction": "a", "output": ""}, "there is no answer"),
        ({"instruction": "a", "output": 3}, "the answer is a int, not a string"),
        ({"instruction": " ", "output": "b"}, "'instruction' is empty"),
        ({"instruction": "a", "output": "b", "history": [["one"]]}, "history holds"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "rejected is empty"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: r\n\nAssistant: b"}, "differ before their last message"),
        ({"chosen": turns((USER, "q")), "rejected": turns((USER, "q"))}, "chosen ends with a message of the user"),
    ],
)  # fmt: skip
def test_bad_records(record, reason) -> None:
    assert reason in problem(record)


def test_lines_that_are_no_json_are_problems_with_their_line(tmp_path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(chat((USER, "a"), (ASSISTANT, "b"))) + "\n{broken\n[1]\n\n" + json.dumps(chat((USER, "c"))) + "\n")
    found, problems, _, _ = read(path)
    assert len(found) == 1
    assert [(one.line, one.file) for one in problems] == [(2, str(path)), (3, str(path)), (5, str(path))]
    assert "is not JSON" in problems[0].reason


def test_one_bad_record_does_not_hide_the_good_ones() -> None:
    found, problems, _, _ = read([chat((USER, "a"), (ASSISTANT, "b")), chat((USER, "a")), chat((USER, "c"), (ASSISTANT, "d"))])
    assert [row["label"] for row in found] == ["b", "d"]
    assert problems[0].line == 2
    assert "a" in problems[0].text


def test_messages_as_json_in_a_cell(tmp_path) -> None:
    path = tmp_path / "chat.csv"
    path.write_text('messages,n\n"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]",1\n')
    (row,), problems, _, _ = read(path)
    assert (row["text"], row["label"], problems) == ("a", "b", [])


def test_plain_text() -> None:
    found, _, _, columns = read([{"text": "Once upon a time"}, {"text": "there was"}])
    assert found == [{"text": "Once upon a time"}, {"text": "there was"}]
    assert columns == Columns(text="text")


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(DataError, match=r"no column looks like messages.*There are: a, b"):
        read([{"a": "1", "b": "2"}])
    with pytest.raises(DataError, match="no rows"):
        as_dialogues(open_table([], Form()), Columns())
    with pytest.raises(OptionError, match="turns='each'"):
        read([{"text": "a"}], turns="each")


def test_shown_names_the_speakers_of_a_longer_prompt() -> None:
    assert shown(turns((SYSTEM, "a"))) == "System: a"


def test_read_carries_everything_and_a_split_by_group_keeps_dialogues_whole() -> None:
    records = [chat((USER, f"q{n}"), (ASSISTANT, "a"), (USER, "more"), (ASSISTANT, "b"), tools="[1]") for n in range(60)]
    made = tl.read(records, "generate")
    assert (len(made), made[1]["tools"], made[1]["messages"][1]) == (120, "[1]", {"role": ASSISTANT, "content": "a"})
    parts = tl.split(made, by="group").parts()
    groups = [{row["group"] for row in part} for part in parts.values()]
    assert all(groups)
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    (row,) = tl.read([{"prompt": "q", "chosen": "a", "rejected": "b"}], "generate")
    assert row["rejected"] == "b"
    (row,) = tl.read([{"prompt": "q", "completion": "a", "label": False}], "generate")
    assert row["liked"] is False
    assert "label" not in tl.read([chat((USER, "a"))], "generate", labelled=False)[0]
    with pytest.raises(DataError, match=":2: there is no answer"):
        tl.read([records[0], chat((USER, "a"))], "generate")


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "every", "last"),
    [
        ("llamafactory_demos/alpaca_en_demo.json", 999, 999),
        ("llamafactory_demos/alpaca_zh_demo.json", 1000, 1000),
        ("llamafactory_demos/c4_demo.jsonl", 300, 300),
        ("llamafactory_demos/dpo_en_demo.json", 300, 300),
        ("llamafactory_demos/dpo_zh_demo.json", 300, 300),
        ("llamafactory_demos/glaive_toolcall_en_demo.json", 957, 300),
        ("llamafactory_demos/glaive_toolcall_zh_demo.json", 940, 300),
        ("llamafactory_demos/identity.json", 91, 91),
        ("llamafactory_demos/kto_en_demo.json", 300, 300),
        ("llamafactory_demos/mllm_demo.json", 12, 6),
        ("llamafactory_demos/v1_sft_demo.jsonl", 500, 500),
        ("llamafactory_demos/wiki_demo.txt", 30, 30),
        ("medical_dialogue_zh/normalised/internal_medicine.jsonl", 7644, 7644),
        ("gsm8k/test.jsonl", 1319, 1319),
        ("gsm8k/train.jsonl", 7473, 7473),
        ("humaneval/HumanEval.jsonl.gz", 164, 164),
    ],
)
def test_real_files(name, every, last) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there")
    for how, count in (("all", every), ("last", last)):
        found, problems, _, _ = read(DATA / name, turns=how)
        assert (len(found), problems) == (count, [])
        assert all(row["text"].strip() and row.get("label", "x").strip() for row in found)


@pytest.mark.real
def test_real_preferences_with_empty_answers() -> None:
    path = DATA / "hh_rlhf_harmless_test/test.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    found, problems, _, _ = read(path)
    assert (len(found), len(problems)) == (2303, 9)
    assert [sum(what in one.reason for one in problems) for what in ("is empty", "differ before their last message")] == [4, 5]
    assert all(row["label"] != "" and row["rejected"] != "" and row["messages"][-1]["role"] == USER for row in found)
