"""Recommending: the loss by hand, users from histories, and a log with structure on which the texts must help, for new items too."""

import numpy as np
import pytest
import torch

from tests.tasks import small_log
from trunkline import names
from trunkline.branch import Branch
from trunkline.data.readers.interactions import read_interactions
from trunkline.data.readers.passages import among
from trunkline.data.split import split
from trunkline.errors import DataError, OptionError
from trunkline.evaluation.baselines.ranks import popularity
from trunkline.evaluation.kinds import ranks
from trunkline.evaluation.measure import truth_and_scores
from trunkline.evaluation.metrics import compute
from trunkline.model.backbone import load_backbone
from trunkline.states.encode import encode
from trunkline.states.store import States
from trunkline.tasks import recommend
from trunkline.train.fit import Data, fit
from trunkline.train.settings import Settings
from trunkline.types import Batch, Output, Rows, Tokens


class FakeTokenizer:
    def encode(self, text, text_b=None, *, max_tokens):
        return Tokens(np.array([ord(char) % 199 + 1 for char in text[:max_tokens]], dtype=np.int32)), len(text) > max_tokens


def row(history, following=None, **more):
    return {"text": "\n".join(history), "history": list(history), **({"text_b": following} if following else {}), **more}


def batch_of(rows, spec):
    """A batch of these rows, its vectors and its users: random, of length 1, the same for the same text."""
    items = [recommend.prepare(one, FakeTokenizer(), spec) for one in rows]
    owner = torch.tensor([at for at, item in enumerate(items) for _ in item.tokens])
    batch = Batch(None, torch.ones(len(owner), 1, dtype=torch.bool), owner, spec, abouts=[item.about for item in items])
    known = {}
    texts = [text for item in items for text in item.about["passages"]]
    vectors = torch.stack([known.setdefault(text, torch.randn(4, generator=torch.Generator().manual_seed(len(known)))) for text in texts])
    users = torch.randn(len(rows), 4, generator=torch.Generator().manual_seed(99))
    normal = torch.nn.functional.normalize
    return (
        batch,
        Output(normal(vectors, dim=-1), vectors, {"users": normal(users, dim=-1)}),
        {k: normal(v, dim=0) for k, v in known.items()},
    )


@pytest.mark.parametrize("correction", [True, False])
def test_the_loss_is_the_corrected_softmax_over_the_next_items(correction):
    rows = [row(["a", "b"], "c"), row(["d"], "e"), row(["c"], "a"), row(["b"], "c", others=["x"])]
    spec = recommend.TaskSpec(correction=correction)
    spec = recommend.TaskSpec(correction=correction, **spec.learned_from(Rows(tuple(rows), "recommend")))
    batch, out, known = batch_of(rows, spec)
    share = {"c": 0.5, "e": 0.25, "a": 0.25}
    each = []
    for at, one in enumerate(rows):
        allowed = [item for item in ("c", "e", "a") if item not in one["history"] or item == one["text_b"]]
        scores = {item: 20 * float(out.extra["users"][at] @ known[item]) for item in allowed}
        if correction:
            scores = {item: score - np.log(1 - (1 - share[item]) ** 4) for item, score in scores.items()}
        each.append(-scores[one["text_b"]] + np.log(np.exp(list(scores.values())).sum()))
    assert float(recommend.loss(out, batch)) == pytest.approx(np.mean(each), abs=1e-5)


def test_popularity_is_learned_from_the_training_rows(monkeypatch):
    rows = Rows((*[row(["a"], "b")] * 6, *[row(["a"], "c")] * 3, row(["a"], "d")), "recommend")
    spec = recommend.TaskSpec(**recommend.TaskSpec().learned_from(rows))
    assert [spec.share(item) for item in ("b", "c", "d", "new")] == [0.6, 0.3, 0.1, 0.1]
    monkeypatch.setattr(recommend, "POPULAR", 1)
    few = recommend.TaskSpec(**recommend.TaskSpec().learned_from(rows))
    assert [few.share(item) for item in ("b", "c", "d")] == [0.6, 0.2, 0.2]  # the mean of those that are not remembered
    assert recommend.TaskSpec.from_json(spec.to_json()) == spec


def test_items_know_their_history():
    spec = recommend.TaskSpec(history=2)
    item = recommend.prepare(row(["a", "b", "c"], "d", others=["e"]), FakeTokenizer(), spec)
    assert item.about == {"query": None, "passages": ("b", "c", "d", "e"), "right": ("d",), "excluded": ("a", "b", "c"), "history": 2}
    assert item.target == 1
    lines = recommend.prepare({"text": "a\n\nb"}, FakeTokenizer(), spec)
    assert lines.about["passages"] == ("a", "b")
    assert lines.target is None
    assert recommend.prepare({"text": "a", "side": "item"}, FakeTokenizer(), spec).about["history"] == 0


def test_what_cannot_be_used_is_said():
    with pytest.raises(DataError, match="no history"):
        recommend.prepare({"text": " ", "history": []}, FakeTokenizer(), recommend.TaskSpec())
    with pytest.raises(DataError, match="has no next item"):
        recommend.TaskSpec().learned_from(Rows((row(["a"]),), "recommend"))
    with pytest.raises(DataError, match="the same in all 3"):
        recommend.TaskSpec().learned_from(Rows((row(["a"], "b"),) * 3, "recommend"))
    for options in ({"combine": "sum"}, {"history": 0}, {"scale": 0.0}):
        with pytest.raises(OptionError):
            recommend.TaskSpec(**options)


def branch(folder, depth=0, **options):
    spec = recommend.TaskSpec(max_tokens=64, **options)
    torch.manual_seed(0)
    return Branch.new(load_backbone(folder), spec, "probe", names.method("probe").Config(), depth, "float32")


@pytest.mark.parametrize("combine", recommend.COMBINES)
def test_an_untuned_user_is_the_mean_of_the_items(combine, tiny_folder):
    made = branch(tiny_folder("bert"), combine=combine)
    histories = [["my card", "refund the money", "who can help"], ["the order"]]
    answers = made.predict([row(history) for history in histories])
    for history, answer in zip(histories, answers):
        single = np.stack([a.scores[1] for a in made.predict([{"text": text, "side": "item"} for text in history])])
        assert np.allclose(answer.scores[1:], single, atol=1e-5)
        mean = single.mean(0)
        assert np.allclose(answer.scores[0], mean / np.linalg.norm(mean), atol=1e-5)
        assert answer.value is None


def test_attention_weighs_by_what_an_item_is_and_how_long_ago(tiny_folder):
    made = branch(tiny_folder("bert"), history=3)
    head, history = made.network.head, ["my card", "refund the money", "who can help"]
    with torch.no_grad():
        head.recency.copy_(torch.tensor([0.0, 1.0, 2.0]))  # of the latest, the one before, the oldest
        head.query.copy_(torch.randn(32, generator=torch.Generator().manual_seed(1)))
    (answer,) = made.predict([row(history)])
    vectors = answer.scores[1:]
    weight = np.exp(vectors @ head.query.detach().numpy() * 32**0.5 + [2.0, 1.0, 0.0])
    user = (weight[:, None] * vectors).sum(0)
    assert np.allclose(answer.scores[0], user / np.linalg.norm(user), atol=1e-4)
    assert np.allclose(made.predict([row(history), row(["my card"])])[0].scores, answer.scores, atol=1e-5)  # neighbours change nothing


@pytest.fixture(scope="module")
def tuned(tiny_folder, tmp_path_factory):
    """A branch tuned on a log in which nobody ever takes the last two items of each topic; with its rows, items and answers."""
    items = small_log.items()
    warm = [item for at, item in enumerate(items) if at % 10 < 8]
    found = read_interactions(small_log.log(warm, users=60), items)
    parts = split(found.rows, by="given")
    made = branch(tiny_folder("bert"))
    made.spec = recommend.TaskSpec(max_tokens=64, **made.spec.learned_from(parts.train))
    prepared = {name: made.prepare(among(part, found.catalogue)) for name, part in parts.parts().items()}
    trunk = made.backbone.trunk(0)
    states = States.open(tmp_path_factory.mktemp("states") / "s", trunk_id=trunk.id, width=trunk.width)
    encode([tokens for part in prepared.values() for item in part for tokens in item.tokens], trunk, states, progress=False)
    before = made.answers(prepared["test"], states)
    settings = Settings(epochs=15, patience=None, head_learning_rate=0.05, precision="float32", evaluate_every=50)
    data = Data(made.prepare(parts.train), prepared["validation"], states, made.spec, made.backbone.tokenizer.pad_id)
    fit(made.network, data, settings, learning_rate=0.01, seed=0)
    return made, parts, prepared["test"], before, made.answers(prepared["test"], states), items


def ndcg(spec, items, answers):
    return compute(["ndcg_at_10"], *truth_and_scores(spec, items, answers))["ndcg_at_10"]


def test_tuning_beats_the_untuned_vectors_and_popularity(tuned):
    made, parts, items, before, after, _ = tuned
    abouts = [item.about for item in items]
    popular = compute(["ndcg_at_10"], ranks.truth_of(ranks.sought(abouts)), popularity(parts.train, abouts).test)["ndcg_at_10"]
    assert ndcg(made.spec, items, after) > 1.05 * max(popular, ndcg(made.spec, items, before))  # the tiny model differs from run to run


def test_every_item_of_the_catalogue_is_ranked(tuned):
    _, _, items, _, _, catalogue = tuned
    assert set(ranks.sought([item.about for item in items]).candidates) == {item["text"] for item in catalogue}


def test_an_item_that_nobody_took_is_recommended_to_those_whom_it_suits(tuned):
    made, parts, _, _, _, items = tuned
    cold = {item["text"]: item["topic"] for at, item in enumerate(items) if at % 10 >= 8}
    assert not cold.keys() & {text for row in parts.train for text in (*row["history"], row["text_b"])}
    index = recommend.catalogue(made, [item["text"] for item in items])
    topics = {item["text"]: item["topic"] for item in items}
    histories = [[text for text, topic in topics.items() if topic == wanted and text not in cold][:4] for wanted in small_log.TOPICS]
    found = recommend.recommend(made, histories, index, k=8)
    suits = [topic == wanted for hits, wanted in zip(found, small_log.TOPICS) for name, _ in hits if name in cold for topic in [cold[name]]]
    assert sum(suits) >= 6  # of 12 cold items, two a topic, each should come up for the users of its topic
    assert sum(suits) / len(suits) > 0.4  # by chance 1 in 6
    assert not any(name in history for history, hits in zip(histories, found) for name, _ in hits)


def test_recommending_needs_a_branch_for_it(tiny_folder):
    spec = names.task("rank").TaskSpec(max_tokens=64)
    other = Branch.new(load_backbone(tiny_folder("bert")), spec, "probe", names.method("probe").Config(), 0, "float32")
    with pytest.raises(OptionError, match="'recommend'"):
        recommend.catalogue(other, ["a", "b"])
