"""The CRF against a walk over every path."""

import itertools

import pytest
import torch

from trunkline.model.heads.crf import FORBIDDEN, Steps, StepWeights, allowed, best_path, log_partition, marginals, path_score

LENGTHS = (4, 1, 3)
TAGS = 3


@pytest.fixture(params=range(5))
def case(request):
    """Random emissions (B, W, K), mask and steps, in float64."""
    torch.manual_seed(request.param)
    emissions = torch.randn(len(LENGTHS), max(LENGTHS), TAGS, dtype=torch.float64)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    steps = Steps(*(torch.randn(shape, dtype=torch.float64) for shape in ((TAGS,), (TAGS, TAGS), (TAGS,))))
    return emissions, mask, steps


def worth(emissions, path, steps):
    """What one path is worth, added up one by one."""
    value = steps.start[path[0]] + steps.end[path[-1]] + sum(emissions[word, tag] for word, tag in enumerate(path))
    return float(value + sum(steps.pair[a, b] for a, b in itertools.pairwise(path)))


def every(emissions, length, steps):
    return {path: worth(emissions, path, steps) for path in itertools.product(range(TAGS), repeat=length)}


def test_partition_best_path_and_marginals_are_those_of_all_paths(case):
    emissions, _, steps = case
    total, best, sure = log_partition(*case), best_path(*case), marginals(*case)
    for row, length in enumerate(LENGTHS):
        paths = every(emissions[row], length, steps)
        logs = torch.tensor(list(paths.values()), dtype=torch.float64)
        assert total[row].item() == pytest.approx(torch.logsumexp(logs, 0).item(), abs=1e-10)
        assert tuple(best[row, :length].tolist()) == max(paths, key=paths.get)
        assert not best[row, length:].any()
        for word, tag in itertools.product(range(length), range(TAGS)):
            wanted = sum(torch.exp(torch.tensor(v, dtype=torch.float64) - total[row]) for p, v in paths.items() if p[word] == tag)
            assert sure[row, word, tag].item() == pytest.approx(float(wanted), abs=1e-10)


def test_a_path_is_worth_the_sum_of_its_parts_whatever_stands_behind_the_mask(case):
    emissions, mask, steps = case
    tags = torch.randint(0, TAGS, mask.shape).masked_fill(~mask, -100)
    for row, length in enumerate(LENGTHS):
        wanted = worth(emissions[row], tuple(tags[row, :length].tolist()), steps)
        assert path_score(emissions, tags, mask, steps)[row].item() == pytest.approx(wanted, abs=1e-10)


def test_the_gradient_of_the_partition_is_the_marginals(case):
    emissions, mask, steps = case
    emissions.requires_grad_(True)
    log_partition(emissions, mask, steps).sum().backward()
    assert torch.allclose(emissions.grad, (marginals(emissions, mask, steps) * mask[..., None]).detach(), atol=1e-10)


def test_a_forbidden_step_is_never_taken(case):
    emissions, mask, _ = case
    may = Steps(torch.tensor([True, False, False]), torch.tensor([[False, True, False], [False, False, True], [True, True, True]]),
                torch.tensor([False, True, True]))  # fmt: skip
    steps = allowed(Steps(torch.zeros(3), torch.zeros(3, 3), torch.zeros(3)), may)
    path = best_path(emissions[[0, 2]], mask[[0, 2]], steps)
    assert path[1, :3].tolist() == [0, 1, 2]  # the only one of three words
    assert path[0, :3].tolist() == [0, 1, 2]
    assert path[0, 3].item() in (1, 2)
    assert steps.pair[0, 0].item() == FORBIDDEN


def test_step_weights_learn_what_follows_what():
    torch.manual_seed(0)
    weights = StepWeights(TAGS)
    tags = torch.tensor([[0, 1, 2, 0], [1, 2, 0, 1]])
    mask = torch.ones_like(tags, dtype=torch.bool)
    emissions = torch.zeros(2, 4, TAGS)
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.1)
    for _ in range(100):
        steps = Steps(**weights())
        loss = (log_partition(emissions, mask, steps) - path_score(emissions, tags, mask, steps)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert weights.pair.argmax(1).tolist() == [1, 2, 0]
