"""The index against a plain search in Python, with FAISS and without; its folder; and the stage that costs no model pass."""

import importlib.util
import mmap

import numpy as np
import pytest

from tests.states.fake_trunk import FakeTrunk, random_tokens
from trunkline.data.embedded import embedded
from trunkline.data.read import read
from trunkline.data.split import split
from trunkline.errors import ArtefactError, MissingExtra, OptionError
from trunkline.quality.vectors import vectors as of_rows
from trunkline.states import search
from trunkline.states.encode import encode
from trunkline.states.live import LiveStates
from trunkline.states.search import Index, Projection, Whitening, vectors_of
from trunkline.states.store import States

GENERATOR = np.random.default_rng(0)
WIDTH = 8
VECTORS = GENERATOR.normal(size=(400, WIDTH)).astype(np.float32) * GENERATOR.uniform(0.1, 5, size=(400, 1)).astype(np.float32)
IDS = [f"n{number}" for number in range(400)]
QUERIES = GENERATOR.normal(size=(20, WIDTH)).astype(np.float32)


def plain(query, ids, vectors, metric, k):
    """The k best by sorting them all: what `search` must give."""

    def score(vector):
        dot = float(np.dot(query.astype(np.float64), vector.astype(np.float64)))
        return dot if metric == "dot" else dot / float(np.linalg.norm(query.astype(np.float64)) * np.linalg.norm(vector.astype(np.float64)))

    return sorted(((name, score(vector)) for name, vector in zip(ids, vectors)), key=lambda hit: -hit[1])[:k]


def same(found, wanted):
    assert [[name for name, _ in hits] for hits in found] == [[name for name, _ in hits] for hits in wanted]
    assert np.allclose([score for hits in found for _, score in hits], [score for hits in wanted for _, score in hits], atol=1e-4)


def filled(metric="cosine", **more):
    index = Index(WIDTH, metric=metric, **more)
    index.add(IDS, VECTORS)
    return index


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 7, 400, 1000])
def test_it_finds_what_a_plain_search_finds(metric, k):
    same(filled(metric).search(QUERIES, k), [plain(query, IDS, VECTORS, metric, k) for query in QUERIES])


def test_queries_are_searched_in_blocks(monkeypatch):
    wanted = filled().search(QUERIES, 5)
    monkeypatch.setattr(search, "_CELLS", 900)  # two queries at once
    same(filled().search(QUERIES, 5), wanted)


def test_of_equals_the_first_comes_first():
    index = Index(2)
    index.add(["far", "a", "b", "c"], np.array([[0, 1], [2, 0], [1, 0], [3, 0]]))
    assert [name for name, _ in index.search(np.array([[1.0, 0.0]]), 2)[0]] == ["a", "b"]


def test_among_and_without():
    few = IDS[10:60]
    found = filled().search(QUERIES, 5, among=[*few, "unknown"], without=few[:20])
    same(found, [plain(query, few[20:], VECTORS[30:60], "cosine", 5) for query in QUERIES])
    assert filled().search(QUERIES[:1], 5, among=[]) == [[]]


def test_rows_go_and_come():
    index = filled()
    assert index.remove([*IDS[:100], "unknown"]) == 100
    assert len(index) == 300
    assert IDS[0] not in index
    same(index.search(QUERIES, 3), [plain(query, IDS[100:], VECTORS[100:], "cosine", 3) for query in QUERIES])
    index.add([IDS[399], "new"], QUERIES[:2])  # an id that is there gets the new vector
    assert len(index) == 301
    assert [hits[0][0] for hits in index.search(QUERIES[:2], 1)] == [IDS[399], "new"]


def test_a_vector_of_zeros_is_near_nothing():
    index = Index(2)
    index.add(["zero", "east"], np.array([[0, 0], [1, 0]]))
    assert dict(index.search(np.array([[1.0, 0.0]]), 2)[0]) == {"east": 1.0, "zero": 0.0}


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a"], np.zeros((1, 3)), r"width 8"),
        (["a"], np.full((1, WIDTH), np.nan), "NaN"),
        (["a"], np.zeros((2, WIDTH)), "1 ids came with 2"),
        (["a", "a"], np.zeros((2, WIDTH)), "'a' is given twice"),
        ([1], np.zeros((1, WIDTH)), "ids are strings"),
    ],
)
def test_what_does_not_fit_is_refused(ids, vectors, message):
    with pytest.raises(OptionError, match=message):
        filled().add(ids, vectors)


def test_wrong_options_are_refused():
    for call in (
        lambda: Index(2, metric="cosin"),
        lambda: filled().search(QUERIES, 0),
        lambda: filled().vectors(["n0", "nn"]),
        lambda: Index(3, whitening=Whitening.fit(VECTORS)),
        lambda: Whitening.fit(VECTORS[:1]),
        lambda: Whitening.fit(np.ones((5, 3))),
        lambda: Whitening.fit(VECTORS, WIDTH + 1),
    ):
        with pytest.raises(OptionError):
            call()


def test_whitened_vectors_are_not_correlated():
    mixed = VECTORS @ GENERATOR.normal(size=(WIDTH, WIDTH)) + 3
    white = Whitening.fit(mixed)(mixed)
    assert np.allclose(np.cov(white.T, bias=True), np.eye(WIDTH), atol=1e-3)
    assert np.allclose(white.mean(0), 0, atol=1e-4)
    flat = np.concatenate([mixed, mixed[:, :1]], axis=1)  # one direction without variance
    assert Whitening.fit(flat)(flat).shape == (400, WIDTH)
    assert Whitening.fit(mixed, 3)(mixed).shape == (400, 3)


def test_an_index_whitens_what_is_added_and_asked():
    whitening = Whitening.fit(VECTORS, 5)
    same(
        filled(whitening=whitening).search(QUERIES, 4),
        [plain(query, IDS, whitening(VECTORS), "cosine", 4) for query in whitening(QUERIES)],
    )


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_faiss_finds_nearly_all_and_only_what_may_be_found(metric, monkeypatch):
    monkeypatch.setattr(search, "PROBED", 0.5)
    exact = filled(metric).search(QUERIES, 10)
    monkeypatch.setattr(search, "EXACT_BELOW", 100)
    index = filled(metric)
    found = index.search(QUERIES, 10)
    shared = [len({n for n, _ in one} & {n for n, _ in other}) for one, other in zip(found, exact)]
    assert 8.5 < np.mean(shared) <= 10
    for query, hits in zip(QUERIES, found):
        scores = dict(plain(query, IDS, VECTORS, metric, len(IDS)))
        assert all(abs(score - scores[name]) < 1e-4 for name, score in hits)
    assert all(len(hits) == 10 for hits in found)
    kept = set(IDS[:150])
    filtered = index.search(QUERIES, 10, among=kept)
    assert all(len(hits) == 10 and {name for name, _ in hits} <= kept for hits in filtered)
    assert len(index.search(QUERIES[:1], 200, without=IDS[:100])[0]) == 200  # more than the lists that are looked into hold


def test_faiss_follows_rows_that_go_and_come(monkeypatch):
    monkeypatch.setattr(search, "EXACT_BELOW", 100)
    monkeypatch.setattr(search, "PROBED", 1.0)
    index = Index(WIDTH)
    index.add(IDS[:150], VECTORS[:150])
    index.search(QUERIES, 1)
    index.add(IDS[150:], VECTORS[150:])
    same(index.search(QUERIES, 5), [plain(query, IDS, VECTORS, "cosine", 5) for query in QUERIES])
    index.remove(IDS[::2])
    same(index.search(QUERIES, 5), [plain(query, IDS[1::2], VECTORS[1::2], "cosine", 5) for query in QUERIES])


def test_without_faiss_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(search, "EXACT_BELOW", 100)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'trunkline\[retrieval\]'"):
        filled().search(QUERIES, 1)


@pytest.mark.parametrize("whitened", [False, True])
def test_a_saved_index_answers_the_same(whitened, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "EXACT_BELOW", 100)
    index = filled(whitening=Whitening.fit(VECTORS, 6) if whitened else None, made_by="trunk a")
    index.add(["编号 \udc80\n"], QUERIES[:1])  # any string is an id
    wanted = index.search(QUERIES, 9)
    again = Index.load(index.save(tmp_path / "index"), made_by="trunk a")
    assert again.search(QUERIES, 9) == wanted
    assert again.ids == index.ids
    index.remove(IDS)
    index.save(tmp_path / "index")
    assert len(Index.load(tmp_path / "index")) == 1
    Index(3).save(tmp_path / "empty")
    assert Index.load(tmp_path / "empty").search(np.zeros((1, 3))) == [[]]


def test_a_foreign_or_damaged_folder_is_refused(tmp_path):
    folder = filled(made_by="trunk a").save(tmp_path / "index")
    with pytest.raises(ArtefactError, match=r"'trunk a'.*'trunk b'"):
        Index.load(folder, made_by="trunk b")
    with pytest.raises(ArtefactError):
        Index.load(tmp_path)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for at in GENERATOR.choice(len(whole), 15):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(GENERATOR.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(ArtefactError):
                Index.load(folder)
        path.write_bytes(whole)
    assert len(Index.load(folder)) == 400


@pytest.mark.parametrize("change", ["vectors", "ids", "ends"])
def test_a_whole_folder_whose_parts_do_not_fit_is_refused(change, tmp_path, monkeypatch):
    index = filled()
    if change == "vectors":
        index._vectors = index._vectors[1:]
    else:
        index._ids[3] = index._ids[4] if change == "ids" else ""
        index._ids.append("one more") if change == "ends" else None
    index.save(tmp_path / "index")
    with pytest.raises(ArtefactError, match="not an index"):
        Index.load(tmp_path / "index")


def test_stored_texts_cost_no_model_pass(tmp_path):
    trunk, texts = FakeTrunk(), random_tokens(30)
    states = States.open(tmp_path / "states", trunk_id=trunk.id, width=trunk.width)
    encode(texts[:20], trunk, states, progress=False)
    trunk.calls.clear()
    live = LiveStates(trunk)
    stored = vectors_of(texts[:20], states, live)
    assert not trunk.calls
    mixed = [texts[25], *texts[5:10], texts[29], texts[25]]
    found = vectors_of(mixed, states, live)
    assert sum(shape[0] for shape, _ in trunk.calls) == 2  # the two texts that no store had, once each
    wanted = np.stack([one.mean(0) for one in live.read(mixed)])
    assert np.allclose(found, wanted, atol=1e-6)
    assert np.allclose(found[1:6], stored[5:10], atol=1e-6)
    assert vectors_of([], states, live).shape == (0, trunk.width)


def test_a_loaded_index_is_mapped_and_can_be_changed_and_replaced(tmp_path):
    folder = filled().save(tmp_path / "index")
    wanted = filled().search(QUERIES, 5)
    index = Index.load(folder)
    assert not index._vectors.flags.owndata
    assert not index._vectors.flags.writeable
    assert isinstance(index._vectors.base.base.obj, mmap.mmap)  # under the view of the right shape
    Index(WIDTH).save(folder)  # another one under the same name: what is mapped stays
    assert index.search(QUERIES, 5) == wanted
    index.remove(IDS[:1])
    index.add(["new"], QUERIES[:1])
    assert index.search(QUERIES[:1], 1)[0][0][0] == "new"
    assert Index.load(index.save(folder)).search(QUERIES, 5) == index.search(QUERIES, 5)


def labelled(seed):
    """Three labels that differ in a small direction, and a large one in which all rows differ."""
    generator = np.random.default_rng(seed)
    labels = np.arange(120) % 3
    noise = generator.normal(size=(120, WIDTH)) * [30, 30, 1, 1, 1, 1, 1, 1]
    return (noise + 4 * np.eye(WIDTH)[2 + labels]).astype(np.float32), labels


def same_label(index, vectors, labels, own):
    hits = index.search(vectors, 5)
    return np.mean([own[int(name)] == label for found, label in zip(hits, labels) for name, _ in found])


def test_a_projection_brings_rows_of_a_label_together():
    (vectors, labels), (held, theirs) = labelled(0), labelled(1)
    learned, found = Projection.fit(vectors, labels, shrinkage=0.001), {}
    assert learned.matrix.shape == (WIDTH, 2)
    for name, one in (("plain", None), ("projection", learned), ("all", Projection.fit(vectors, labels, WIDTH))):
        index = Index(WIDTH, whitening=one)
        index.add([str(at) for at in range(120)], vectors)
        found[name] = same_label(index, held, theirs, labels)
    assert found["plain"] < 0.6
    assert found["projection"] > 0.9
    assert found["plain"] < found["all"]
    there = Projection.fit(vectors, labels, shrinkage=1e-6)(vectors).astype(np.float64)
    inner = there - np.stack([there[labels == label].mean(0) for label in labels])
    assert np.allclose(inner.T @ inner / 120, np.eye(2), atol=0.01)  # what is within a label counts the same in all directions


def test_a_projection_is_saved_with_its_index_and_wrong_input_is_refused(tmp_path):
    vectors, labels = labelled(0)
    index = Index(WIDTH, whitening=Projection.fit(vectors, labels))
    index.add([str(at) for at in range(120)], vectors)
    again = Index.load(index.save(tmp_path / "index"))
    assert isinstance(again.whitening, Projection)
    assert again.search(QUERIES, 5) == index.search(QUERIES, 5)
    for wrong in (
        lambda: Projection.fit(vectors, labels[1:]),
        lambda: Projection.fit(vectors, [0] * 120),
        lambda: Projection.fit(vectors[:3], [0, 1, 2]),
        lambda: Projection.fit(vectors, labels, WIDTH + 1),
        lambda: Projection.fit(np.ones((4, 2)), [0, 0, 1, 1]),
    ):
        with pytest.raises(OptionError):
            wrong()


@pytest.mark.real
def test_on_real_states_a_projection_finds_more_rows_of_the_same_intent():
    """Embedded messages, minilm as it is; learned from the training rows, asked with rows held out. Whitening, which knows no labels, beside it."""
    parts = split(read(embedded("en")))
    train, held = list(parts.train), [*parts.validation, *parts.test]
    found = of_rows(train, held, model="minilm")
    own, theirs, right = [row["label"] for row in train], [row["label"] for row in held], {}
    for name, one in (("plain", None), ("whitening", Whitening.fit(found.rows)), ("projection", Projection.fit(found.rows, own))):
        index = Index(found.rows.shape[1], whitening=one)
        index.add([str(at) for at in range(len(own))], found.rows)
        right[name] = same_label(index, found.against, theirs, own)
    assert right["projection"] > right["plain"] + 0.03
    assert right["projection"] > right["whitening"]
