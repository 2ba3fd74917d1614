"""Each method's gradients against finite differences in float64: what is trained is what the loss depends on, and by that much."""

import pytest
import torch

from tests.test_contract import make, rows
from trunkline import names
from trunkline.branch import Branch
from trunkline.methods import adalora, adapter, lora, prefix, prompt
from trunkline.model.backbone import ALL
from trunkline.states.collate import collate

CONFIGS = {name: names.method(name).Config() for name in names.METHODS} | {
    "dora": lora.Config(dora=True, rslora=True),
    "pissa": lora.Config(start="pissa", rank=2, alpha=2.0),
    "lora in 4 bits": lora.Config(bits=4),
    "dora in 4 bits": lora.Config(bits=4, dora=True),
    "adalora": adalora.Config(orthogonality=0.5),
    "pfeiffer": adapter.Config(placement="pfeiffer"),
    "prefix, one softmax": prefix.Config(gate=False),
    "p-tuning": prompt.Config(encoder="mlp"),
}
STEP, WITHIN = {"bert": 1e-6, "llama": 3e-3, "t5": 3e-3}, {"bert": 1e-5, "llama": 0.02, "t5": 0.02}
"""How far a number is moved, and how close the slope must be. The library's RMS norms (Llama, T5) round to float32 in any case, which a small
step would drown in."""


def method_of(config):
    return type(config).__module__.rpartition(".")[2]


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_finite_differences(name, family, tiny_folder):
    config = CONFIGS[name]
    if name == "bitfit" and family != "bert":
        pytest.skip("no biases there")
    depth = ALL if (name, family) == ("prompt", "bert") else 1
    plain = make(tiny_folder(family), "classify", "probe", depth)
    branch = Branch.new(plain.backbone, plain.spec, method_of(config), config, depth, "float32")
    items = branch.prepare(rows("classify"))[:4]
    batch = collate(items, branch.source(), branch.spec, branch.backbone.tokenizer.pad_id)
    network = branch.network.double().eval()
    if batch.hidden is not None:
        batch.hidden = batch.hidden.double()
    generator = torch.Generator().manual_seed(0)
    learned = {name: p for name, p in network.learned().items() if not name.startswith("head.")} or network.learned()
    if name.startswith(
        "dora"
    ):  # the gradient of the others leaves out that a column's length follows them, as the paper has it (section 4.3)
        learned = {name: p for name, p in learned.items() if "magnitude" in name}
    with torch.no_grad():  # away from the start, where half of the gradients are zero
        for parameter in learned.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.1)

    mixed = torch.randn(len(items), len(branch.spec.labels), generator=generator, dtype=torch.float64)

    def loss():  # the task's own loss would round the logits to float32
        return (network(batch).logits * mixed).sum() + network.guide.penalty(network)

    gradients = dict(zip(learned, torch.autograd.grad(loss(), list(learned.values()))))
    for parameter_name in _some(list(learned)):
        at = int(gradients[parameter_name].abs().argmax())
        flat = learned[parameter_name].data.view(-1)
        with torch.no_grad():
            before = float(flat[at])
            ends = []
            for change in (STEP[family], -STEP[family]):
                flat[at] = before + change
                ends.append(float(loss()))
            flat[at] = before
        wanted = float(gradients[parameter_name].reshape(-1)[at])
        slope = (ends[0] - ends[1]) / (2 * STEP[family])
        assert slope == pytest.approx(wanted, rel=WITHIN[family], abs=1e-3 if family != "bert" else 1e-8), parameter_name
        assert wanted != 0.0, parameter_name


def _some(every):
    """A few of many, from everywhere."""
    return every[:: max(1, len(every) // 6)]
