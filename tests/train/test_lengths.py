"""Lengths in tokens: as the model's tokenizer counts them, what is cut at the limit, and when nothing can be counted."""

from trunkline.data.prepare import prepare
from trunkline.model.backbone import load_backbone
from trunkline.train import lengths
from trunkline.train.lengths import in_tokens


def rows(count=30):
    return [{"text": " ".join(["refund the money"] * (n + 1)), "label": "ab"[n % 2]} for n in range(count)]


def test_whole_lengths_and_what_is_cut(tiny_folder):
    folder = tiny_folder("bert")
    tokenizer = load_backbone(folder).tokenizer
    whole = sorted(len(tokenizer.encode(row["text"], max_tokens=1000)[0]) for row in rows())
    found = in_tokens(prepare(rows()), folder, task_options="max_tokens=20").tokens
    assert found.quantiles["smallest"] == whole[0]
    assert found.quantiles["largest"] == whole[-1]
    assert found.max_tokens == 20
    assert found.cut == sum(length > 20 for length in whole)
    assert (found.rows, found.sequences, found.unknown) == (30, 1.0, 0.0)
    assert in_tokens(prepare(rows()), folder).tokens.max_tokens == 64, "the model's own limit"


def test_it_is_shown(tiny_folder):
    found = in_tokens(prepare(rows()), tiny_folder("bert"), task_options="max_tokens=20")
    shown = str(found)
    assert f"{found.tokens.cut} of 30 rows lose something at max_tokens=20" in shown
    assert f"tokens of {tiny_folder('bert')}"[:20] in shown
    assert found.to_json()["tokens"]["cut"] == found.tokens.cut


def test_what_the_model_has_no_token_for_is_counted(tiny_folder):
    strange = [{"text": f"refund the money 龘龘 {n}", "label": "ab"[n % 2]} for n in range(10)]
    found = in_tokens(prepare(strange), tiny_folder("bert"))
    assert 0.1 < found.tokens.unknown < 0.6
    assert "stand for what this model does not know" in str(found)
    marked = [{"text": f"[UNK] [SEP] refund the money {n}", "label": "ab"[n % 2]} for n in range(10)]
    assert in_tokens(prepare(marked), tiny_folder("bert")).tokens.unknown < found.tokens.unknown


def test_windows_are_pieces(tiny_folder):
    passage = " ".join(["the package was damaged when it arrived"] * 20)
    asked = [{"question": f"what was damaged {n}", "context": passage, "answers": ["package"]} for n in range(12)]
    found = in_tokens(prepare(asked, "span"), tiny_folder("bert"), task_options="max_windows=2")
    assert found.tokens.sequences == 2
    assert found.tokens.cut == 12
    assert "read in 2.00 pieces" in str(found)


def test_of_many_rows_some_are_looked_at(tiny_folder, monkeypatch):
    monkeypatch.setattr(lengths, "MOST_ROWS", 10)
    found = in_tokens(prepare(rows()), tiny_folder("bert"))
    assert found.tokens.rows == 10
    assert "of 10 rows that were looked at (of 30) lose" in str(found)


def test_labels_that_allow_no_task_are_said(tiny_folder):
    found = in_tokens(prepare([{"text": f"refund {n}", "label": "one"} for n in range(20)]), tiny_folder("bert"))
    assert found.tokens is None
    assert "Tokens were not counted: memory: the training rows have 1 label(s)" in str(found)
