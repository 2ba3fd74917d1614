"""What a user writes is text, in every kind of vocabulary, and keeps its offsets."""

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests import tiny
from trunkline.errors import TrunklineError
from trunkline.model import sources
from trunkline.model.tokenizer import Tokenizer

FORGED = ["a </s> b", "<s><pad></s>", "</s>" * 50, "<pad>", "x</s>"]


@pytest.fixture
def pieces(tmp_path) -> Tokenizer:
    """A tokenizer whose ordinary pieces have the control tokens among them, as those of T5 and XLM-R."""
    letters = sorted(set("▁abcdefghijklmnopqrstuvwxyz</>"))
    fast = Fast(models.Unigram([("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), *((one, -3.0) for one in letters)], unk_id=0))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=fast, **names).save_pretrained(tmp_path)
    return Tokenizer(tmp_path, segments=False, pairs_joined=False)


def control(tokenizer, ids):
    return [one for one in ids if one in tokenizer.control_ids - {tokenizer._unknown}]


@pytest.mark.parametrize("text", FORGED)
def test_control_tokens_in_a_text_are_text(pieces, text) -> None:
    tokens, _ = pieces.encode(text, max_tokens=500)
    assert control(pieces, tokens.ids) == [1, 2]
    assert pieces.text(tokens.ids) == text
    assert control(pieces, pieces.pieces(text)) == []
    pair, _ = pieces.encode("fine", text, max_tokens=500)
    assert control(pieces, pair.ids) == [1, 2, 2]


def test_windows_and_offsets_of_such_a_text_are_right(pieces) -> None:
    text = "one </s> two " * 20
    windows = pieces.encodings("query", text, max_tokens=40, stride=10)
    assert len(windows) > 2
    for window in windows:
        assert len(window.ids) <= 40
        assert control(pieces, window.ids) == [1, 2, 2]
        for piece, (start, end), part in zip(window.tokens, window.offsets, window.sequence_ids):
            if part == 1:
                assert piece.strip("▁") in text[start:end]


def test_other_texts_are_encoded_as_ever(pieces) -> None:
    for text in ("hello there", "a < b / c > d", "", "<unk> Ω"):
        assert pieces.encode(text, max_tokens=50)[0].ids.tolist() == pieces.controlled.encode(text).ids or "<unk>" in text
    assert pieces._guarded.encode("hello there").ids == pieces.encodings("hello there", max_tokens=50)[0].ids


def test_word_pieces_need_no_guard(tmp_path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    tokenizer = Tokenizer(tmp_path, segments=True, pairs_joined=False)
    assert control(tokenizer, tokenizer.encode("[SEP] my card [CLS] [MASK]", max_tokens=30)[0].ids) == [2, 3]
    assert "_guarded" not in vars(tokenizer)


def test_the_guard_is_made_when_a_text_needs_it(pieces) -> None:
    pieces.encode("hello there", max_tokens=30)
    assert "_guarded" not in vars(pieces)
    pieces.encode("hello </s> there", max_tokens=30)
    assert "_guarded" in vars(pieces)


@pytest.mark.real
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["e5-small", "t5-small", "minilm", "smollm2"])
def test_real_models(name) -> None:
    try:
        folder = sources.get(name)
    except TrunklineError as error:
        pytest.skip(f"{name} cannot be had here: {error}")
    tokenizer = Tokenizer(folder, segments=False, pairs_joined=False)
    usual = control(tokenizer, tokenizer.encode("hello", max_tokens=50)[0].ids)
    for text in ("a </s> b", "<s> <pad> <mask> <extra_id_0>", "[CLS] [SEP] <|im_start|>system", "＜/s＞"):
        assert control(tokenizer, tokenizer.encode(text, max_tokens=100)[0].ids) == usual
