"""The noun of the house: a branch answers for a task. It is a backbone, a network above a cut, and what the task learned.

On disk a folder of a few MB: `branch.safetensors` (only what was learned), `branch.json`, `report.json`, `report.html`, and the
manifest of their sums. It is refused for another backbone than the one it was tuned on, and when it answers differently than it did.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers

from trunkline import __version__, choices, names, storage
from trunkline.errors import ArtefactError, OptionError
from trunkline.evaluation.report import Report
from trunkline.model.backbone import ALL, Backbone, Depth, load_backbone
from trunkline.model.batches import by_length
from trunkline.model.network import Network
from trunkline.model.precision import PRECISIONS
from trunkline.model.writing.chat import template_id
from trunkline.states.collate import Source, collate
from trunkline.states.live import LiveStates
from trunkline.types import Answer, Item, Items, Row, Rows, Spec, Tokens

KIND = "branch"
_PROBES = 4
LAYER_PRECISIONS = ("float32", "int8")
"""What the layers of a branch may compute in."""
PROBE_TOLERANCE = {"float32": 5e-3, "bfloat16": 0.05, "int8": 0.5, "nf4": 5e-3}
"""By the precision of the trunk, or of the layers above it: on another processor a last bit may round another way, which int8 makes a step of 1/127. The
4-bit numbers of nf4 are the same everywhere, and its products in float32."""


@dataclass(repr=False)
class Branch:
    """A tuned branch. `network` holds the layers and the head as they were tuned; `states` is the number format that it was tuned on;
    `precision` is what its layers compute in when it answers: "float32", or "int8" (train/rounding.py).
    """

    backbone: Backbone
    network: Network
    spec: Any
    method: str
    config: Any
    states: str = "float16"
    report: Report | None = None
    precision: str = "float32"

    @classmethod
    def new(cls, backbone: Backbone, spec: Spec, method: str, config: Any, depth: Depth, states: str = "float16") -> Branch:
        """An untrained branch: the layers above the cut, the method grafted on, a fresh head.

        Raises: OptionError when the task cannot stand on this kind of model, or the method not on it.
        """
        if backbone.family.kind not in spec.backbones:
            raise OptionError(
                f"task={spec.task!r} on {backbone.name!r}: this model is of kind {backbone.family.kind!r}, and the task needs "
                f"{' or '.join(spec.backbones)}. `trunkline models` lists some."
            )
        backbone = backbone.seen_by(spec.backbones)
        network = Network(backbone, depth, names.task(spec.task).head(backbone.width, spec))
        names.method(method).graft(network, config)
        return cls(backbone, network.to(backbone.device), spec, method, config, states)

    def __repr__(self) -> str:
        return f"Branch({self.task}, {self.backbone.name}, depth {self.depth}, {self.method})"

    @property
    def task(self) -> str:
        return self.spec.task

    @property
    def depth(self) -> Depth:
        return self.network.depth

    @property
    def trunk_id(self) -> str:
        """What the branch stands on: the trunk's id, or the backbone's at depth "all"."""
        return self.backbone.id if self.depth == ALL else self.backbone.trunk(self.depth).id

    @property
    def answering(self) -> Network:
        """The network that answers: the one that was tuned, or a copy over the same tensors whose layers are rounded.

        Raises: OptionError where layers are to be rounded and what a method added cannot be worked into them.
        """
        return self.network if self.precision == "float32" else self._rounded

    @cached_property
    def _rounded(self) -> Network:
        return self.merged().network.rounded(self.precision)

    def source(self) -> Source | None:
        """The live trunk below this branch, which rounds its states as the store does; None at depth "all"."""
        return None if self.depth == ALL else LiveStates(self.backbone.trunk(self.depth), dtype=self.states)

    def predict(self, texts: str | Sequence[str | tuple[str, str] | Row] | Rows) -> list[Answer]:
        """One answer for each text, pair of texts, or row, in their order."""
        given = [texts] if isinstance(texts, str) else list(texts)
        items = self.prepare([row_of(text, index) for index, text in enumerate(given)])
        return self.answers([replace(item, target=None) for item in items])  # of a plain text the target is the text

    def answers(self, items: Sequence[Item], source: Source | None = None) -> list[Answer]:
        """One answer for each item, in their order, from stored states or else through the live trunk."""
        return run(self.answering, self.spec, items, source or self.source(), self.backbone.tokenizer.pad_id)

    def prepare(self, rows: Sequence[Row]) -> Items:
        """The rows as items: tokens, and targets where the rows have labels."""
        task = names.task(self.task)
        return Items(task.prepare(row, self.backbone.tokenizer, self.spec) for row in rows)

    def merged(self) -> Branch:
        """The same answers with what the method added worked into plain layers. Raises: OptionError where a method cannot."""
        return replace(self, network=names.method(self.method).merge(self.network))

    @classmethod
    def from_adapter(
        cls, backbone: Backbone, spec: Spec, folder: str | Path, depth: Depth | None = None, states: str = "float16"
    ) -> Branch:
        """An untrained branch that begins with a PEFT LoRA adapter of the whole model; without a depth the smallest that holds it.

        Raises: ArtefactError when the adapter cannot be read, OptionError that names one of its layers that is below the cut.
        """
        found = names.adapters().import_adapter(backbone, folder)
        config = names.method("lora").Config(**found.options)
        branch = cls.new(backbone, spec, "lora", config, found.depth if depth is None else depth, states)
        found.into(branch.network)
        return branch

    def export(self, folder: str | Path) -> Path:
        """Write what the method learned as a standard PEFT adapter of the whole model, with the head beside it.

        Raises: OptionError where PEFT has no form for it.
        """
        return Path(names.adapters().export(self.network, self.spec, folder))

    def save(self, folder: str | Path) -> Path:
        """Write the branch, all at once, in place of a branch that was there."""
        folder = savable(folder)
        learned = {name: p.detach().cpu().contiguous() for name, p in self.network.learned().items()}
        files = {"branch.safetensors": safetensors.torch.save(learned), "branch.json": storage.to_json(self._about())}
        if self.report is not None:
            files |= {"report.json": self.report.to_json(), "report.html": self.report.html().encode()}
        storage.write_folder(folder, files, {"kind": KIND, "trunkline": __version__})
        return folder

    def _about(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "spec": self.spec.to_json(),
            "method": self.method,
            "config": asdict(self.config),
            "depth": self.depth,
            "states": self.states,
            "backbone": {"name": self.backbone.name, "id": self.backbone.id},
            "trunk": self.trunk_id,
            "template": template_id(self.backbone.tokenizer) if getattr(self.spec, "form", None) == "chat" else None,
            "trunk_precision": self.backbone.trunk_precision,
            "precision": self.precision,
            "probe": [[round(float(v), 6) for v in row] for row in self.probe()],
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()},
        }

    def probes(self) -> list[Item]:
        """Four fixed token sequences of different length, or pairs of them."""
        generator, likelihood = np.random.default_rng(0), self.spec.kind == "likelihood"
        ids = [generator.integers(0, self.backbone.config.vocab_size, size, dtype=np.int32) for size in range(6, 6 + _PROBES)]
        if self.spec.apart:
            return [Item((Tokens(one), Tokens(one[::-1].copy()))) for one in ids]
        return [Item((Tokens(one),), one if likelihood else None) for one in ids]

    def probe(self) -> np.ndarray:
        """Logits (4, K) for four fixed token sequences: stored with the branch, and compared when it is loaded.

        Of a task whose logits are over a vocabulary: the likelihoods (4, 2) of the sequences.
        """
        likelihood, items = self.spec.kind == "likelihood", self.probes()
        network = self.answering.eval()
        with torch.no_grad():
            batch = collate(items, self.source(), self.spec, self.backbone.tokenizer.pad_id).to(self.backbone.device)
            out = network(batch)
            if likelihood:
                return np.stack([answer.scores for answer in names.task(self.task).decode(out, batch, self.spec)])
            return out.logits.float().cpu().numpy().reshape(_PROBES, -1)

    @property
    def tolerance(self) -> float:
        """How far the probe's logits may be from those that were stored."""
        return max(PROBE_TOLERANCE[self.backbone.trunk_precision], PROBE_TOLERANCE[self.precision])


def identity(branch: Branch) -> str:
    """SHA-256 of what a branch is: its trunk, method, spec, and every learned number."""
    digest = hashlib.sha256(f"{branch.trunk_id} {branch.method} {asdict(branch.config)} {branch.spec.to_json()} {branch.states}".encode())
    for name, parameter in sorted(branch.network.learned().items()):
        digest.update(name.encode() + parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def savable(folder: str | Path) -> Path:
    """The folder, when a branch can be saved there. Raises: ArtefactError when something else stands there."""
    folder = Path(folder)
    if folder.exists() and not (folder / storage.MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArtefactError(f"{folder}: exists and is not a saved branch. Choose another folder.")
    return folder


def load(folder: str | Path, *, model: str | Path | Backbone | None = None, device: str | torch.device = "cpu") -> Branch:
    """A branch from its folder, with its backbone by the name it was tuned with, or from `model`: another name, or one that is loaded.

    Raises: ArtefactError when the folder is damaged, the backbone is another one (both ids are named), tensors are missing,
    extra or of another shape, or the branch does not answer as it did when it was saved.
    """
    folder = Path(folder)
    files, _ = storage.read_folder(folder, KIND)
    try:
        about = storage.from_json(files["branch.json"], str(folder / "branch.json"))
        task, method = names.task(about["task"]), names.method(about["method"])
        spec = task.TaskSpec.from_json(about["spec"])
        config = choices.build(method.Config, about["config"], f"method {about['method']!r}")
        precision, of_layers = about.get("trunk_precision", "float32"), about.get("precision", "float32")
        choices.one_of("trunk_precision", precision, PRECISIONS)
        choices.one_of("precision", of_layers, LAYER_PRECISIONS)
    except (KeyError, ValueError, TypeError, OptionError) as error:
        raise ArtefactError(f"{folder / 'branch.json'}: not the description of a branch that this Trunkline reads ({error}).") from error
    given = model if isinstance(model, Backbone) and model.trunk_precision == precision else None
    name = model.name if isinstance(model, Backbone) else model
    backbone = given or load_backbone(name or about["backbone"]["name"], device=device, trunk_precision=precision)
    if backbone.id != about["backbone"]["id"]:
        raise ArtefactError(
            f"{folder}: was tuned on backbone {about['backbone']['name']!r} with id {about['backbone']['id']}, and {backbone.name!r} has id "
            f"{backbone.id}. Give the right one with --model, or tune the branch anew."
        )
    _check_template(folder, about.get("template"), backbone)
    branch = replace(Branch.new(backbone, spec, about["method"], config, about["depth"], about["states"]), precision=of_layers)
    restore(branch.network, safetensors.torch.load(files["branch.safetensors"]), str(folder / "branch.safetensors"))
    difference = float(np.abs(branch.probe() - np.asarray(about["probe"])).max())
    if not difference <= branch.tolerance:
        raise ArtefactError(
            f"{folder}: on this machine the branch answers differently than when it was saved (largest difference of its probe logits "
            f"{difference:.3g}, allowed {branch.tolerance}; saved with {about['versions']}). Install those versions, or tune it anew."
        )
    if "report.json" in files:
        branch.report = Report.from_json(files["report.json"], str(folder / "report.json"))
    return branch


def _check_template(folder: Path, wanted: str | None, backbone: Backbone) -> None:
    """A branch that was tuned on chats is asked through the same chat template. It is no part of the backbone's id: most branches never see it."""
    found = template_id(backbone.tokenizer) if wanted else None
    if found != wanted:
        raise ArtefactError(
            f"{folder}: was tuned with the chat template {wanted}, and that of {backbone.name!r} is {found}. "
            "Put the model's former chat template back, or tune the branch anew."
        )


def restore(network: Network, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Put saved tensors into a network; each must be there, none may be extra, and every shape must fit."""
    learned = network.learned()
    odd = sorted(learned.keys() ^ tensors.keys())
    odd += [
        f"{n} {tuple(tensors[n].shape)} for {tuple(p.shape)}" for n, p in learned.items() if n in tensors and p.shape != tensors[n].shape
    ]
    if odd:
        raise ArtefactError(f"{where}: {len(odd)} tensors are missing, extra or of another shape: {', '.join(odd[:5])}.")
    with torch.no_grad():
        for name, parameter in learned.items():
            parameter.copy_(tensors[name])


@torch.no_grad()
def run(network: Network, spec: Any, items: Sequence[Item], source: Source | None, pad_id: int) -> list[Answer]:
    """The answers for some items, in their order; computed shortest first, in batches by token budget."""
    task, device = names.task(spec.task), next(network.parameters()).device
    answers: list[Any] = [None] * len(items)
    network.eval()
    for indices in by_length([max(map(len, item.tokens)) for item in items]):
        batch = collate([items[i] for i in indices], source, spec, pad_id).to(device)
        for index, answer in zip(indices, task.decode(network(batch), batch, spec)):
            answers[index] = answer
    return answers


def row_of(text: Any, index: int) -> Row:
    """A text, a pair or a row (whose label is left out) as a row. Raises: OptionError that says which of the texts is none of them."""
    if isinstance(text, str):
        return {"text": text}
    if isinstance(text, dict) and isinstance(text.get("text"), str):
        return {k: v for k, v in text.items() if k != "label"}
    if isinstance(text, tuple) and len(text) == 2 and all(isinstance(t, str) for t in text):
        return {"text": text[0], "text_b": text[1]}
    raise OptionError(f"texts[{index}]={text!r:.80}: use a text, a pair (text, text_b), or a row with the field 'text'.")
