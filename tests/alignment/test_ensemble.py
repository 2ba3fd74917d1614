"""Ensembles: mean and deviation by hand, one trunk for all, cautious where members disagree, saved and loaded to the same."""

import numpy as np
import pytest
import torch

from trunkline import names
from trunkline.alignment.ensemble import Ensemble, load
from trunkline.branch import Branch
from trunkline.errors import ArtefactError, OptionError
from trunkline.model.backbone import load_backbone
from trunkline.tasks.reward import TaskSpec
from trunkline.types import Rows


@pytest.fixture
def members(tiny_folder):
    made, backbone = [], load_backbone(tiny_folder("llama"))
    for seed in range(3):
        torch.manual_seed(seed)
        branch = Branch.new(backbone, TaskSpec(), "full", names.method("full").Config(), 1, "float32")
        torch.nn.init.normal_(branch.network.head.linear.weight)
        made.append(branch)
    return tuple(made)


PAIRS = [("my card", "please cancel the order"), ("my order", "refund the money"), ("who", "the package was damaged")]


def test_mean_and_deviation_are_those_of_the_members(members, tmp_path):
    ensemble = Ensemble(members)
    each = np.array([[answer.value for answer in member.predict(PAIRS)] for member in members])
    mean, apart = ensemble.predict(PAIRS)
    assert np.allclose(mean, each.mean(axis=0), atol=1e-5)
    assert np.allclose(apart, np.sqrt(((each - each.mean(axis=0)) ** 2).sum(axis=0) / 2), atol=1e-5)
    judged = ensemble.cautious(2.0)([{"text": text} for text, _ in PAIRS], [answer for _, answer in PAIRS])
    assert np.allclose(judged, mean - 2 * apart, atol=1e-5)
    again = load(ensemble.save(tmp_path / "judges"))
    assert np.allclose(again.predict(PAIRS)[0], mean, atol=1e-6)
    assert all(member.backbone is again.members[0].backbone for member in again.members)


def test_over_pairs_it_is_the_margin(members):
    rows = Rows(tuple({"text": text, "text_b": answer, "rejected": "today"} for text, answer in PAIRS), "reward")
    both, each = Ensemble(members).accuracy(rows)
    margins = np.array([[a.scores for a in member.predict(list(rows))] for member in members])
    assert each == [float((one > 0).mean()) for one in margins]
    assert both == float((margins.mean(axis=0) > 0).mean())


def test_what_is_no_ensemble_is_refused(members, tmp_path):
    with pytest.raises(OptionError, match="at least two"):
        Ensemble(members[:1])
    with pytest.raises(ArtefactError, match="member-0"):
        load(tmp_path)
