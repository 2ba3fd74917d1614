"""The generator: what a row says is what it would say alone, whoever writes beside it; rows join, leave, end and are cut off."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.serving.writers import writer
from trunkline.branch import Branch
from trunkline.errors import OptionError
from trunkline.model.backbone import load_backbone
from trunkline.serving.generator import Generator, Limits
from trunkline.serving.generator_cache import Prompts
from trunkline.serving.generator_rows import Ask, Piece
from trunkline.serving.refused import Refused

PROMPTS = [*tiny.TEXTS, "my card", "refund", "the package was damaged and i am waiting for the money"]


class Heard:
    """What an ask said."""

    def __init__(self, ids: np.ndarray, **told: Any) -> None:
        self.pieces: list[Piece] = []
        self.over = threading.Event()
        self.ask = Ask(ids, self.hear, **told)

    def hear(self, piece: Piece) -> None:
        assert not self.over.is_set()
        self.pieces.append(piece)
        if piece.reason is not None:
            self.over.set()

    @property
    def text(self) -> str:
        assert self.over.wait(30), "it never ended"
        return "".join(piece.text for piece in self.pieces)

    @property
    def reason(self) -> str | None:
        assert self.over.wait(30), "it never ended"
        return self.pieces[-1].reason


@pytest.fixture(scope="module")
def branch(tiny_folder: Callable[[str], Path]) -> Branch:
    return writer(tiny_folder("llama"))


@pytest.fixture
def generator(branch: Branch) -> Iterator[Generator]:
    made = Generator({"one": branch}, Limits(rows=4))
    made.start()
    yield made
    made.close()


def asked(branch: Branch, text: str) -> np.ndarray:
    (item,) = branch.prepare([{"text": text}])
    return np.asarray(item.about)


def alone(branch: Branch, text: str, count: int) -> str:
    """The library's own generate, for one text."""
    ids = torch.from_numpy(asked(branch, text).astype("int64"))[None]
    model = branch.network.writer()
    with torch.no_grad():
        made = model.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=list(model.ends),
            pad_token_id=0,
        )
    return model.text(made[0, ids.shape[1] :].tolist(), ())


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "qwen3", "gemma2", "gemma3_text", "smollm3"])
def test_together_as_alone(tiny_folder: Callable[[str], Path], family: str) -> None:
    """Ten prompts of different lengths through four places, joining and leaving at different steps; prompts are read in small pieces."""
    branch = writer(tiny_folder(family))
    counts = [3 + at % 5 * 4 for at in range(len(PROMPTS))]
    heard = [Heard(asked(branch, text), max_new_tokens=count) for text, count in zip(PROMPTS, counts)]
    made = Generator({"one": branch}, Limits(rows=4, piece=5))
    for one in heard:
        made.ask("one", one.ask)
    made.start()
    try:
        found = [one.text for one in heard]
        steps = made.steps
    finally:
        made.close()
    assert found == [alone(branch, text, count) for text, count in zip(PROMPTS, counts)]
    assert len(set(found)) > 5
    assert steps < sum(counts) / 2


def test_two_branches_on_one_backbone(tiny_folder: Callable[[str], Path]) -> None:
    backbone = load_backbone(tiny_folder("llama"))
    branches = {"a": writer(Path(), backbone=backbone, seed=1), "b": writer(Path(), backbone=backbone, seed=2, depth=2)}
    made = Generator(branches)
    made.start()
    try:
        heard = {(name, text): Heard(asked(branches[name], text), max_new_tokens=10) for text in PROMPTS[:4] for name in branches}
        for (name, _), one in heard.items():
            made.ask(name, one.ask)
        assert {key: one.text for key, one in heard.items()} == {key: alone(branches[key[0]], key[1], 10) for key in heard}
    finally:
        made.close()


def test_a_prompt_that_begins_as_another_is_not_read_again(branch: Branch, generator: Generator) -> None:
    longest = "my card has not arrived yet and i am waiting please cancel the order who can help me"
    for number, text in enumerate((longest, longest, longest + " refund", longest.replace("help me", "cancel"))):
        heard = Heard(asked(branch, text), max_new_tokens=8, tenant="ann")
        before = generator.reused
        generator.ask("one", heard.ask)
        assert heard.text == alone(branch, text, 8)
        assert (generator.reused > before + 15) == (number > 0)
    before = generator.reused
    other = Heard(asked(branch, longest), max_new_tokens=8, tenant="bob")
    generator.ask("one", other.ask)
    assert other.text == alone(branch, longest, 8)
    assert generator.reused == before  # what one tenant sent makes nothing faster for another, who could learn from it


def test_kept_prompts_stay_within_their_memory() -> None:
    kept = Prompts(most_bytes=4 * 2 * 20 * 4)
    for at in range(10):
        kept.keep("ann", np.arange(20, dtype=np.int32) + at, [(torch.zeros(1, 1, 20, 1), torch.zeros(1, 1, 20, 1))])
    assert kept.bytes == 640
    assert kept.find("ann", np.arange(20, dtype=np.int32)) is None
    found = kept.find("ann", np.arange(20, dtype=np.int32) + 9)
    assert found is not None
    assert found[0][0].shape[-2] == 19


def sampled(branch: Branch, generator: Generator, text: str, **told: Any) -> str:
    heard = Heard(asked(branch, text), max_new_tokens=10, temperature=1.5, **told)
    generator.ask("one", heard.ask)
    return heard.text


def test_a_seed_gives_the_same_whoever_writes_beside(branch: Branch, generator: Generator) -> None:
    found = sampled(branch, generator, "my card", seed=7)
    others = [Heard(asked(branch, text), max_new_tokens=20, temperature=1.0, seed=at) for at, text in enumerate(PROMPTS[:5])]
    generator.ask("one", *(one.ask for one in others))
    assert sampled(branch, generator, "my card", seed=7) == found
    assert len({sampled(branch, generator, "my card", seed=seed) for seed in range(6)}) > 3
    assert sampled(branch, generator, "my card", seed=3, top_p=1e-6) == alone(branch, "my card", 10)


def test_a_stop_ends_the_text_before_it(branch: Branch, generator: Generator) -> None:
    whole = alone(branch, "refund", 12)
    stop = whole.split()[3]
    heard = Heard(asked(branch, "refund"), max_new_tokens=12, stops=(stop,))
    generator.ask("one", heard.ask)
    assert heard.text == whole[: whole.index(stop)]
    assert heard.reason == "stop"
    plain = Heard(asked(branch, "refund"), max_new_tokens=12)
    generator.ask("one", plain.ask)
    assert (plain.text, plain.reason) == (whole, "length")
    assert len(plain.pieces) > 3


def test_log_probabilities_are_the_models(branch: Branch, generator: Generator) -> None:
    heard = Heard(asked(branch, "my card"), max_new_tokens=4, logprobs=3)
    generator.ask("one", heard.ask)
    assert heard.text
    chosen = [token for piece in heard.pieces for token in piece.tokens]
    ids = [*asked(branch, "my card").tolist(), *(token.id for token in chosen)]
    with torch.no_grad():
        logits = branch.network.writer().model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    for at, token in enumerate(chosen):
        row = logits[len(ids) - len(chosen) + at - 1]
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        assert [logprob for _, logprob in token.likeliest] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    assert len(chosen) == 4


def test_who_cancels_frees_the_place(branch: Branch, generator: Generator) -> None:
    endless = [Heard(asked(branch, text), max_new_tokens=10**6, temperature=2.0) for text in PROMPTS[:4]]
    room = branch.network.writer().room
    assert room > 30
    generator.ask("one", *(one.ask for one in endless))
    for one in endless:
        one.ask.cancelled.set()
    assert {one.reason for one in endless} <= {"cancelled", "length", "stop"}
    assert "cancelled" in {one.reason for one in endless}
    after = Heard(asked(branch, "refund"), max_new_tokens=5)
    generator.ask("one", after.ask)
    assert after.text == alone(branch, "refund", 5)
    assert _soon(lambda: generator.busy == (0, 0))


def test_limits(branch: Branch) -> None:
    made = Generator({"one": branch}, Limits(rows=2, waiting=3))
    three = [Heard(asked(branch, "refund"), max_new_tokens=3) for _ in range(3)]
    made.ask("one", *(one.ask for one in three))
    with pytest.raises(Refused) as caught:
        made.ask("one", Heard(asked(branch, "refund")).ask)
    assert (caught.value.status, caught.value.after) == (429, 2.0)
    late = three[0]
    late.ask.seconds = 0  # counted from when it was asked: already over
    three[1].ask.cancelled.set()
    made.start()
    assert [one.reason for one in three] == ["length", "cancelled", "length"]
    room = made.room("one")
    with pytest.raises(Refused, match="tokens"):
        made.ask("one", Heard(np.ones(room, dtype=np.int32)).ask)
    longest = Heard(np.full(room - 2, 9, dtype=np.int32), max_new_tokens=100)
    made.ask("one", longest.ask)
    assert longest.reason in ("length", "stop")
    timed = Heard(asked(branch, "refund"), max_new_tokens=100, seconds=0.0)
    made.ask("one", timed.ask)
    assert timed.reason == "time"
    made.close()
    with pytest.raises(Refused, match="going away"):
        made.ask("one", Heard(asked(branch, "refund")).ask)


def test_a_failure_ends_its_rows_and_not_the_thread(branch: Branch, generator: Generator, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks:
        def mask(self, logits: torch.Tensor) -> None:
            raise RuntimeError("secret text")

    broken = Heard(asked(branch, "refund"), max_new_tokens=5, grammar=Breaks())
    generator.ask("one", broken.ask)
    assert broken.reason == "failed"
    assert "secret" not in caplog.text
    after = Heard(asked(branch, "refund"), max_new_tokens=5)
    generator.ask("one", after.ask)
    assert after.text == alone(branch, "refund", 5)


def test_a_failure_before_the_first_token_ends_the_row_and_not_the_thread(
    branch: Branch, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a prompt that is taken from the queue, of one that is checked there, and of the queue itself: whoever waits is told."""
    with monkeypatch.context() as broken:
        broken.setattr(generator._prompts["one"], "find", _raises)
        first = Heard(asked(branch, "refund"), max_new_tokens=5)
        generator.ask("one", first.ask)
        assert first.reason == "failed"
    with monkeypatch.context() as broken:
        broken.setattr(generator, "_begun", _raises)
        broken.setattr("trunkline.serving.generator._alone", lambda row: nullcontext())  # so that `_take` itself raises
        several = [Heard(asked(branch, text), max_new_tokens=5) for text in PROMPTS[:4]]
        generator.ask("one", *(one.ask for one in several))
        assert [one.reason for one in several] == ["failed"] * 4
    after = Heard(asked(branch, "refund"), max_new_tokens=5)
    generator.ask("one", after.ask)
    assert after.text == alone(branch, "refund", 5)


def test_who_cannot_be_told_the_last_piece_is_told_that_it_failed(branch: Branch, generator: Generator) -> None:
    """Bytes that are no text, or a tokenizer that fails, at the very end of a row."""
    heard = Heard(asked(branch, "refund"), max_new_tokens=4)

    def on_piece(piece: Piece) -> None:
        if piece.reason == "length":
            raise RuntimeError("secret text")
        heard.hear(piece)

    heard.ask.on_piece = on_piece
    generator.ask("one", heard.ask)
    assert heard.reason == "failed"


def test_a_thread_that_died_is_not_waited_for(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by an error, which it survives: by what ends an interpreter's thread."""

    def ends(*_: object) -> None:
        raise SystemExit

    made = Generator({"one": branch})
    monkeypatch.setattr(made, "_read_some", ends)
    heard = Heard(asked(branch, "refund"), max_new_tokens=4)
    made.ask("one", heard.ask)
    with pytest.raises(SystemExit):
        made._run()
    assert heard.reason == "cancelled"
    with pytest.raises(Refused, match="going away"):
        made.ask("one", Heard(asked(branch, "refund")).ask)


def test_who_waits_when_it_closes_is_told_that_it_was_cancelled(branch: Branch) -> None:
    """Not that something failed: a server that goes away answers 503, to be asked again elsewhere, and not 500."""
    made = Generator({"one": branch}, Limits(rows=1))
    heard = [Heard(asked(branch, text), max_new_tokens=10**6) for text in PROMPTS[:3]]
    heard[0].ask.on_piece = lambda piece: (heard[0].hear(piece), time.sleep(0.2))  # so that it is not over before the end
    made.ask("one", *(one.ask for one in heard))
    made.start()
    assert _soon(lambda: bool(heard[0].pieces))
    made.close()
    assert [one.reason for one in heard] == ["cancelled"] * 3


def test_what_cannot_be_served_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    from tests.serving.samples import branch as sample

    with pytest.raises(OptionError, match="does not write"):
        Generator({"one": sample(tiny_folder("bert"))})
    with pytest.raises(OptionError, match="encoder-decoder"):
        Generator({"one": sample(tiny_folder("t5"), "seq2seq")})


def _raises(*_: object) -> None:
    raise RuntimeError("secret text")


def _soon(found: Callable[[], bool]) -> bool:
    until = time.monotonic() + 10
    while not found() and time.monotonic() < until:
        time.sleep(0.005)
    return found()
