"""The machine: which device, how many threads, and what stands beside a result."""

import os

import pytest
import torch

from trunkline.errors import OptionError
from trunkline.train import machine


def test_a_device_that_is_not_there_is_refused_with_those_that_are():
    assert machine.device("cpu").type == "cpu"
    assert machine.device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(OptionError, match=r"device='gpu': unknown.*Allowed: .*cpu"):
        machine.device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="device='cuda': unknown"):
            machine.device("cuda:1")


def test_threads_are_as_many_as_wanted():
    before = torch.get_num_threads()
    try:
        assert machine.use_threads(2) == torch.get_num_threads() == 2
        assert machine.use_threads(0) >= 1
    finally:
        torch.set_num_threads(before)


def test_few_kernels_are_kept_unless_the_user_says_how_many(monkeypatch):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    for told, kept in ((None, "32"), ("1024", "1024")):
        monkeypatch.setenv(name, told) if told else monkeypatch.delenv(name, raising=False)
        machine.use_threads(torch.get_num_threads())
        assert os.environ[name] == kept


def test_what_stands_beside_a_result():
    said = machine.describe(torch.device("cpu"))
    assert said.keys() == {"device", "processor", "cores", "threads", "memory", "system"}
    assert all(isinstance(value, str) and value for value in said.values())
    assert machine.peak_memory() > 10 << 20
