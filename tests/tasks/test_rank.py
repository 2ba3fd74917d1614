"""Ranking: losses against numbers worked out by hand, what is no negative, vectors, mining, and rows that cannot be used."""

import numpy as np
import pytest
import torch

from trunkline import names
from trunkline.branch import Branch
from trunkline.errors import DataError, OptionError
from trunkline.model.backbone import load_backbone
from trunkline.states.encode import encode
from trunkline.states.search import vectors_of
from trunkline.states.store import States
from trunkline.tasks import classify, rank, regress
from trunkline.train import fit
from trunkline.train.settings import Settings
from trunkline.types import Batch, Output, Rows, Tokens

GENERATOR = np.random.default_rng(0)
SPEC = rank.TaskSpec()


def row(query, passage=None, *negatives, **more):
    return {"text": query, **({"text_b": passage} if passage else {}), **({"negatives": list(negatives)} if negatives else {}), **more}


def batch_of(rows, spec=SPEC):
    """A batch of these rows and random vectors of length 1 for their texts."""
    items = [rank.prepare(one, FakeTokenizer(), spec) for one in rows]
    owner = torch.tensor([at for at, item in enumerate(items) for _ in item.tokens])
    targets = None if any(item.target is None for item in items) else torch.tensor([float(item.target) for item in items])
    batch = Batch(None, torch.ones(len(owner), 1, dtype=torch.bool), owner, spec, targets=targets, abouts=[item.about for item in items])
    known = {}
    texts = [text for item in items for text in (item.about["query"], *item.about["passages"])]
    vectors = torch.stack([known.setdefault(text, torch.randn(4, generator=torch.Generator().manual_seed(len(known)))) for text in texts])
    return batch, torch.nn.functional.normalize(vectors, dim=-1), known


class FakeTokenizer:
    """Letters as ids; keeps what it was given."""

    def __init__(self):
        self.texts = []

    def encode(self, text, text_b=None, *, max_tokens):
        assert text_b is None
        self.texts.append(text)
        return Tokens(np.array([ord(char) % 199 + 1 for char in text[:max_tokens]], dtype=np.int32)), len(text) > max_tokens


def by_hand(rows, known, wrong):
    """-log softmax of each row's passage among itself and the passages that `wrong` lists for it."""
    unit = {text: vector / vector.norm() for text, vector in known.items()}
    each = []
    for one, others in zip(rows, wrong):
        scores = [20 * float(unit[one["text"]] @ unit[passage]) for passage in (one["text_b"], *others)]
        each.append(-scores[0] + np.log(np.exp(scores).sum()))
    return np.mean(each)


def test_the_loss_is_the_softmax_over_the_passages_of_the_batch():
    rows = [row("q1", "p1", "n1"), row("q2", "p2"), row("q3", "p3")]
    batch, vectors, known = batch_of(rows)
    got = rank.loss(Output(vectors, vectors), batch)
    assert float(got) == pytest.approx(by_hand(rows, known, [["n1", "p2", "p3"], ["p1", "n1", "p3"], ["p1", "n1", "p2"]]), abs=1e-5)


def test_no_right_passage_is_its_own_negative_and_none_counts_twice():
    rows = [row("q1", "p1"), row("q2", "p1"), row("q1", "p2"), row("q3", "p3", "p1")]
    batch, vectors, known = batch_of(rows)
    got = rank.loss(Output(vectors, vectors), batch)
    assert float(got) == pytest.approx(by_hand(rows, known, [["p3"], ["p2", "p3"], ["p3"], ["p1", "p2"]]), abs=1e-5)


def test_a_pair_that_is_not_right_lends_its_passage_only():
    spec = rank.TaskSpec(low=0.0, high=5.0)
    rows = [row("q1", "p1", label=4.0), row("q2", "p2", label=1.0)]
    batch, vectors, known = batch_of(rows, spec)
    assert float(rank.loss(Output(vectors, vectors), batch)) == pytest.approx(by_hand(rows[:1], known, [["p2"]]) / 2, abs=1e-5)


def test_a_perfect_ranking_costs_nothing_and_the_reverse_much():
    batch, _, _ = batch_of([row("q1", "p1"), row("q2", "p2")])
    right = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    assert float(rank.loss(Output(right, right), batch)) < 1e-6
    assert float(rank.loss(Output(right[[0, 2, 2, 0]], right), batch)) == pytest.approx(40, abs=1e-3)


def test_the_cosine_loss_is_the_squared_error_of_the_cosine():
    spec = rank.TaskSpec(loss="cosine", low=0.0, high=5.0)
    rows = [row("q1", "p1", label=5.0), row("q2", "p2", label=1.0), row("q3", "p3", "n", label=2.5)]
    batch, vectors, known = batch_of(rows, spec)
    cosines = [float(torch.nn.functional.cosine_similarity(known[f"q{n}"], known[f"p{n}"], dim=0)) for n in (1, 2, 3)]
    wanted = np.mean([(cosines[0] - 1) ** 2, (cosines[1] - 0.2) ** 2, (cosines[2] - 0.5) ** 2])
    assert float(rank.loss(Output(vectors, vectors), batch)) == pytest.approx(wanted, abs=1e-5)


def test_items_know_their_texts():
    item = rank.prepare(row("q", "p", "n1", "n2", others=["o"]), FakeTokenizer(), SPEC)
    assert len(item.tokens) == 5
    assert item.about == {"query": "q", "passages": ("p", "n1", "n2", "o"), "right": ("p",), "excluded": ()}
    assert float(item.target) == 1.0
    alone = rank.prepare(row("q"), FakeTokenizer(), SPEC)
    assert alone.target is None
    assert alone.about["right"] == ()
    assert rank.prepare(row("q", "p" * 300), FakeTokenizer(), SPEC).was_cut
    assert rank.prepare(row("q", "p"), FakeTokenizer(), rank.TaskSpec(loss="cosine")).target is None


def test_prefixes_stand_before_the_texts():
    seen = FakeTokenizer()
    rank.prepare(row("q", "p", "n"), seen, rank.TaskSpec(prefixes="e5"))
    rank.prepare(row("p", side="passage"), seen, rank.TaskSpec(prefixes="e5"))
    assert seen.texts == ["query: q", "passage: p", "passage: n", "passage: p"]
    with pytest.raises(OptionError, match="side='pasage'"):
        rank.prepare(row("p", side="pasage"), seen, SPEC)


def test_decode_gives_the_vectors_and_the_cosine():
    batch, vectors, _ = batch_of([row("q1", "p1", "n1"), row("q2")])
    first, second = rank.decode(Output(vectors, vectors), batch, SPEC)
    assert np.array_equal(first.scores, vectors[:3].numpy())
    assert first.value == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert second.value is None
    assert second.scores.shape == (1, 4)


@pytest.mark.parametrize(
    ("rows", "spec", "message"),
    [
        ([row("q")], SPEC, "'q' has no passage"),
        ([row("q", "p")] * 3, rank.TaskSpec(loss="cosine"), "0 of 3 rows have a label"),
        ([row("q", "p", label=2.0)] * 3, rank.TaskSpec(loss="cosine"), "1 of them different"),
    ],
)
def test_rows_that_teach_nothing_are_refused(rows, spec, message):
    with pytest.raises(DataError, match=message):
        spec.learned_from(Rows(tuple(rows), "rank"))


def test_the_range_of_the_labels_is_learned():
    assert rank.TaskSpec().learned_from(Rows((row("q", "p", label=1.0), row("r", "s", label=5.0)), "rank")) == {"low": 1.0, "high": 5.0}
    assert rank.TaskSpec().learned_from(Rows((row("q", "p"),), "rank")) == {}


@pytest.mark.parametrize(
    "options", [{"loss": "triplet"}, {"prefixes": "e6"}, {"scale": 0.0}, {"width": 8, "projection": False}, {"pooling": "max"}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(OptionError):
        rank.TaskSpec(**options)


def branch(folder, task="rank", depth=1, **options):
    spec = names.task(task).TaskSpec(max_tokens=64, **options)
    torch.manual_seed(0)
    return Branch.new(load_backbone(folder), spec, "full", names.method("full").Config(), depth, "float32")


def test_an_untuned_branch_compares_the_pooled_states_as_they_are(tiny_folder, tmp_path):
    made = branch(tiny_folder("bert"), depth=0)
    texts = ["refund the money", "my card has not arrived", "订单还没有到"]
    trunk = made.backbone.trunk(0)
    states = States.open(tmp_path / "states", trunk_id=trunk.id, width=trunk.width)
    tokens = [made.prepare([{"text": text}])[0].tokens[0] for text in texts]
    encode(tokens, trunk, states, progress=False)
    pooled = vectors_of(tokens, states, made.source())
    assert np.allclose(rank.embed(made, texts), pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"projection": False}, {"width": 8}, {"pooling": "attention"}])
def test_vectors_have_length_one_and_the_width_that_was_asked_for(options, tiny_folder):
    vectors = rank.embed(branch(tiny_folder("bert"), **options), ["refund the money", "who can help"])
    assert vectors.shape == (2, options.get("width", 32))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_rerank_orders_passages_by_what_each_task_says(tiny_folder):
    passages = ["refund the money", "my card has not arrived", "who can help me", "please cancel the order"]
    for task, spec in (
        ("rank", rank.TaskSpec(max_tokens=64)),
        ("regress", regress.TaskSpec(max_tokens=64, mean=2.0)),
        ("classify", classify.TaskSpec(max_tokens=64, labels=("no", "yes"))),
    ):
        torch.manual_seed(0)
        made = Branch.new(load_backbone(tiny_folder("bert")), spec, "full", names.method("full").Config(), 1, "float32")
        found = rank.rerank(made, "where is my card", passages)
        answers = made.predict([("where is my card", passage) for passage in passages])
        wanted = {p: float(a.scores[1]) if task == "classify" else float(a.value) for p, a in zip(passages, answers)}
        assert dict(found) == pytest.approx(wanted, abs=1e-6)
        assert [score for _, score in found] == sorted(wanted.values(), reverse=True)
    assert rank.rerank(made, "q", passages, label="no")[0][0] == rank.rerank(made, "q", passages)[-1][0]
    with pytest.raises(OptionError, match="'maybe'"):
        rank.rerank(made, "q", passages, label="maybe")
    with pytest.raises(OptionError, match="'rank'"):
        rank.embed(made, passages)


def test_mined_negatives_look_right_and_are_not():
    passages = [f"p{n}" for n in range(50)]
    vectors = GENERATOR.normal(size=(50, 6)).astype(np.float32)
    queries = vectors[:20] + 0.6 * GENERATOR.normal(size=(20, 6)).astype(np.float32)
    rows = Rows(tuple(row(f"q{n // 2}", f"p{n}", **({"negatives": ["given"]} if n == 3 else {})) for n in range(20)), "rank")
    made = rank.mine_negatives(rows, queries, passages, vectors, count=2, margin=0.1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mined = 0
    for at, one in enumerate(made):
        cosines = unit @ queries[at] / np.linalg.norm(queries[at])
        right = {at, at ^ 1}  # the two rows of a query share their right passages
        allowed = sorted((n for n in range(50) if n not in right and cosines[n] <= cosines[at] - 0.1), key=lambda n: -cosines[n])
        wanted = [*(["given"] if at == 3 else []), *(f"p{n}" for n in allowed[:2])]
        assert one.get("negatives", []) == wanted
        mined += len(allowed[:2])
    assert mined > 20
    with pytest.raises(OptionError, match="19 query vectors came with 20 rows"):
        rank.mine_negatives(rows, queries[1:], passages, vectors)


def test_rows_of_one_passage_do_not_come_in_one_batch(tiny_folder):
    made = branch(tiny_folder("bert"))
    rows = [row(f"who can help {n}", "card " * (1 + n % 8)) for n in range(64)]  # by length, each batch would have one passage only
    items = made.prepare(rows)
    data = fit.Data(items, items[:8], made.source(), made.spec, made.backbone.tokenizer.pad_id)
    loop = fit._Loop(made.network, data, Settings(batch_size=8), 1e-3, 0, None)
    passages = [len({rows[at]["text_b"] for at in indices}) for indices in fit.batches(loop.lengths, 8, seed=0, epoch=0)]
    assert np.mean(passages) > 4
