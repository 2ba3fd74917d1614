"""A pre-trained model, frozen, and its three views: the trunk below the cut, the stack above it, and the whole.

All views hold the same tensors: a stack is a second set of modules over the same parameters, and a method clones what it trains.
"""

from __future__ import annotations

import copy
import hashlib
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from trunkline.choices import one_of
from trunkline.errors import ModelError, OptionError
from trunkline.memory import give_back
from trunkline.model import configs, safety, sources
from trunkline.model.families import Family, family
from trunkline.model.nf4 import Nf4Linear
from trunkline.model.precision import PRECISIONS, ROUNDS_INPUTS, each_length, lower
from trunkline.model.stacks import at, bottom, joined, put, shared, top
from trunkline.model.tokenizer import Tokenizer
from trunkline.model.weights import float_formats
from trunkline.model.writing.decoder import Below

Depth = int | str
"""How many top layers a branch has: 0 to the number of layers, or "all" (embeddings too, no store)."""

ALL = "all"
AUTO = "auto"
"""Not a depth, but the wish that one be found: `tune` does, and nothing below it knows the word."""


class Backbone:
    """A frozen `transformers` model with its tokenizer.

    id: SHA-256 of configuration, weights and tokenizer; layers: how many can be cut; width: D;
    max_tokens: the longest text it reads; ends: ids that end a text it writes; trunk_precision: what its trunks compute in (precision.py).
    With "nf4" the model itself is in 4 bits, and nothing of the float weights is kept.
    """

    def __init__(self, name: str, folder: Path, model: Any, identity: str, trunk_precision: str = "float32") -> None:
        one_of("trunk_precision", trunk_precision, PRECISIONS)
        self.name, self.folder, self.id, self.trunk_precision = name, folder, identity, trunk_precision
        self._trunks: dict[int, Trunk] = {}
        self._published: weakref.WeakValueDictionary[str, nn.Parameter] = weakref.WeakValueDictionary()
        self.config: Any = model.config
        self.family: Family = family(self.config.model_type)
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.stack: nn.Module = at(model, self.family.stack)
        self.layers: int = self.config.num_hidden_layers if self.family.whole_only else len(at(self.stack, self.family.layers))
        self.width: int = self.config.hidden_size
        limit = getattr(self.config, "max_position_embeddings", None) or 1 << 17
        self.max_tokens: int = limit - self.family.reserved
        self.tokenizer = Tokenizer(folder, segments=self.family.segments, pairs_joined=self.family.kind == "decoder")
        self.ends: tuple[int, ...] = _ends(folder, self.config, self.tokenizer)
        if self.tokenizer.end_id is None and self.ends:
            self.tokenizer.end_id = self.ends[0]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def held(self) -> Iterator[nn.Module]:
        """The modules whose tensors this backbone keeps in memory: the model, and rounded trunks beside it."""
        yield self.model
        yield from (trunk._stack for trunk in self._trunks.values())

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        return self  # frozen: a copy of a branch stands on the same one

    def seen_by(self, kinds: Sequence[str]) -> Backbone:
        """This backbone as a task sees it that can stand on these kinds: one that needs an encoder-decoder has use for both its halves."""
        return BothHalves(self) if tuple(kinds) == ("encoder-decoder",) and self.family.decoder else self

    def check_depth(self, depth: Depth) -> Depth:
        """The depth as given, when this model can be cut there. Raises: OptionError that says what is allowed."""
        if depth == ALL:
            if self.trunk_precision != "float32":
                raise OptionError(f"trunk_precision={self.trunk_precision!r}: depth 'all' has no trunk. Use 'float32', or another depth.")
            return depth
        if not isinstance(depth, int) or isinstance(depth, bool):
            raise OptionError(f"depth={depth!r}: use a number of layers, 0 to {self.layers}, or 'all'.")
        if self.family.whole_only and depth != 0:
            raise OptionError(f"depth={depth}: the layers of {self.config.model_type} share their weights. Use 0 or 'all'.")
        if not 0 <= depth <= self.layers:
            raise OptionError(f"depth={depth}: this model has {self.layers} layers. Use 0 to {self.layers}, or 'all'.")
        return depth

    def stored(self, depth: Depth) -> tuple[Backbone, Depth]:
        """The backbone whose states are stored for a branch of this depth, and the depth of the cut there."""
        return self, self.check_depth(depth)

    def trunk(self, depth: Depth) -> Trunk:
        """The embeddings and the layers below the cut."""
        if self.check_depth(depth) == ALL:
            raise OptionError("depth='all' trains the embeddings too, so nothing is left for a trunk.")
        cut = self.layers - int(depth)
        if cut not in self._trunks:
            self._trunks[cut] = Trunk(self, cut)
        return self._trunks[cut]

    def upper(self, depth: Depth) -> nn.Module:
        """The layers above the cut as a stack of their own (for "all", the whole stack), over the same parameters.

        Called with inputs_embeds (S, T, D) and attention_mask (S, T); gives last_hidden_state (S, T, D). A backbone in 4 bits reads their float
        weights again, which come on the processor whatever its device.
        """
        return self._in_float(self.above(depth), depth)

    def above(self, depth: Depth) -> nn.Module:
        """The same as this backbone holds it, in 4 bits if it is."""
        self.check_depth(depth)
        if depth == ALL:
            return copy.deepcopy(self.stack, shared(self.stack))
        return top(self.stack, self.family, self.layers - int(depth))

    def place(self, name: str, depth: Depth) -> str:
        """The name in `model` of a module that has this name in `upper(depth)`."""
        return self._moved(self.family.stack, name, 0 if depth == ALL else self.layers - int(depth))

    def _moved(self, half: str, name: str, cut: int) -> str:
        start = f"{self.family.layers}."
        if name.startswith(start):
            number, _, rest = name.removeprefix(start).partition(".")
            name = f"{start}{int(number) + cut}.{rest}"
        return f"{half}.{name}" if half else name

    def _in_float(self, stack: nn.Module, depth: Depth) -> nn.Module:
        """The stack with plain layers in the place of its 4-bit ones; stacks that are there at the same time share the weights."""
        names = [name for name, module in stack.named_modules() if isinstance(module, Nf4Linear)] if depth != 0 else []
        weights = {name: self._published.get(self.place(name, depth)) for name in names}
        if not all(weight is not None for weight in weights.values()):
            model, dtype = _read(self.folder, _as_stored(self.folder)), next(self.model.parameters()).dtype
            weights = {name: _frozen(model.get_submodule(self.place(name, depth)).weight, dtype) for name in names}
            self._published.update({self.place(name, depth): weight for name, weight in weights.items() if weight is not None})
        for name, weight in weights.items():
            put(stack, name, at(stack, name).plain(weight))
        return stack

    def whole(self, upper: nn.Module, depth: Depth) -> nn.Module:
        """The whole stack, from token ids, with the layers of a branch's `upper` in place of the backbone's own."""
        return upper if depth == ALL else joined(self.stack, self.family, upper, self.layers - int(depth))

    def below(self, depth: Depth) -> Below | None:
        """What lies between the stored states and the layers of a branch: nothing, where one stack is cut."""
        return None


class BothHalves(Backbone):
    """An encoder-decoder as a task sees it that writes: depth counts from the top of the decoder, through it, and on into the encoder.

    The states of the encoder are what is stored, at its cut: up to the decoder's number of layers that cut is the encoder's top.
    """

    def __init__(self, encoder: Backbone) -> None:
        vars(self).update(vars(encoder))
        self.encoder, self.decoder = encoder, at(self.model, self.family.decoder)
        self.decoder_layers = len(at(self.decoder, self.family.layers))
        self.layers = encoder.layers + self.decoder_layers

    def seen_by(self, kinds: Sequence[str]) -> Backbone:
        return self.encoder.seen_by(kinds)

    def stored(self, depth: Depth) -> tuple[Backbone, Depth]:
        depth = self.check_depth(depth)
        return self.encoder, depth if depth == ALL else max(0, int(depth) - self.decoder_layers)

    def trunk(self, depth: Depth) -> Trunk:
        encoder, at_depth = self.stored(depth)
        return encoder.trunk(at_depth)

    def above(self, depth: Depth) -> nn.ModuleDict:
        """The layers above the cut: "decoder", and "encoder" where the depth reaches it."""
        encoder, in_encoder = self.stored(depth)
        if depth == ALL:
            memo = shared(self.model)
            return nn.ModuleDict({"encoder": copy.deepcopy(self.stack, memo), "decoder": copy.deepcopy(self.decoder, memo)})
        halves = {"decoder": top(self.decoder, self.family, self._decoder_cut(depth))}
        return nn.ModuleDict(halves | ({"encoder": encoder.above(in_encoder)} if in_encoder else {}))

    def place(self, name: str, depth: Depth) -> str:
        half, _, rest = name.partition(".")
        if half == "encoder":
            return self.encoder.place(rest, depth if depth == ALL else self.stored(depth)[1])
        return self._moved(self.family.decoder, rest, 0 if depth == ALL else self._decoder_cut(depth))

    def whole(self, upper: nn.Module, depth: Depth) -> nn.ModuleDict:
        """Both halves, from token ids, with the layers of a branch's `upper` in place of the backbone's own."""
        if depth == ALL:
            return upper  # type: ignore[return-value]
        encoder, in_encoder = self.stored(depth)
        halves: Any = upper
        first = encoder.whole(halves["encoder"], in_encoder) if in_encoder else self.stack
        return nn.ModuleDict({"encoder": first, "decoder": joined(self.decoder, self.family, halves["decoder"], self._decoder_cut(depth))})

    def below(self, depth: Depth) -> Below:
        """The decoder's embeddings and lower layers, and the end of the encoder where no layer of it is the branch's."""
        start = next(i for i in (getattr(self.config, "decoder_start_token_id", None), self.tokenizer.pad_id) if i is not None)
        if depth == ALL:
            return Below(None, None, start)
        norm = at(self.stack, self.family.norm) if self.family.norm and not self.stored(depth)[1] else None
        return Below(norm, bottom(self.decoder, self.family, self._decoder_cut(depth)), start)

    def _decoder_cut(self, depth: Depth) -> int:
        return self.decoder_layers - min(int(depth), self.decoder_layers)


class Trunk:
    """Everything below the cut: token ids in, the hidden states that enter layer `cut` out. Frozen, in eval mode, no gradient.

    id: SHA-256 of backbone id, cut, and precision where it is not float32.
    """

    def __init__(self, backbone: Backbone, cut: int) -> None:
        self.backbone, self.cut = backbone, cut
        precision = backbone.trunk_precision
        mark = "" if precision == "float32" else f"@{precision}"
        self.id = hashlib.sha256(f"{backbone.id}:{cut}{mark}".encode()).hexdigest()
        self.width, self.pad_id = backbone.width, backbone.tokenizer.pad_id
        self._stack, self._each_length = backbone.stack, precision in ROUNDS_INPUTS
        if self._each_length:
            self._stack = copy.deepcopy(backbone.stack, shared(backbone.stack))
            lower(self._stack, precision, keep=at(self._stack, backbone.family.layers)[cut:])
        layers = list(at(self._stack, backbone.family.layers))
        norm = at(self._stack, backbone.family.norm) if backbone.family.norm else None
        self._stop_at = norm if cut == backbone.layers else layers[cut]

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor, mask: torch.Tensor | None, types: torch.Tensor | None = None) -> torch.Tensor:
        """ids (S, T) int64; mask (S, T) bool, True = real token, or None when nothing is padded; types (S, T) or None.

        Gives (S, T, D) on the trunk's device; what stands at padded places means nothing.
        """
        given = ids.to(self.device), None if types is None else types.to(self.device)
        mask = None if mask is None else mask.to(self.device)
        return each_length(self._run, mask, *given) if self._each_length else self._run(mask, *given)

    def _run(self, mask: torch.Tensor | None, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        given = {"input_ids": ids, "attention_mask": None if mask is None else mask.long()}
        if types is not None:
            given["token_type_ids"] = types
        return _until(self._stop_at, self._stack, given)


class Lift:
    """The layers between two cuts: hidden states at the lower cut in, those at the higher cut out. Frozen, in eval mode, no gradient."""

    def __init__(self, backbone: Backbone, low: Depth, high: Depth) -> None:
        if not isinstance(low, int) or not isinstance(high, int) or not high <= low or backbone.family.whole_only:
            raise OptionError(f"from depth {low} to {high}: states go up only, from a cut to one with fewer layers above it.")
        (backbone, lowest), (_, highest) = backbone.stored(low), backbone.stored(high)
        low, high = int(lowest), int(highest)
        self.device, self.same, self._each_length = backbone.device, low == high, backbone.trunk_precision in ROUNDS_INPUTS
        self._stack = backbone.above(low).eval()
        if self._each_length:
            lower(self._stack, backbone.trunk_precision)
        norm = at(self._stack, backbone.family.norm) if backbone.family.norm else None
        self._stop_at = norm if high == 0 else at(self._stack, backbone.family.layers)[low - high]

    @torch.no_grad()
    def __call__(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """hidden (S, T, D), mask (S, T) bool or None when nothing is padded -> (S, T, D); what stands at padded places means nothing."""
        if self.same:
            return hidden
        hidden, mask = hidden.to(self.device), None if mask is None else mask.to(self.device)
        return each_length(self._run, mask, hidden) if self._each_length else self._run(mask, hidden)

    def _run(self, mask: torch.Tensor | None, hidden: torch.Tensor) -> torch.Tensor:
        return _until(self._stop_at, self._stack, {"inputs_embeds": hidden, "attention_mask": None if mask is None else mask.long()})


def load_backbone(
    name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, trunk_precision: str = "float32"
) -> Backbone:
    """A backbone by name, hub id or folder, frozen and in eval mode. trunk_precision: "float32", "bfloat16", "int8" or "nf4".

    Raises: OptionError for an unknown precision; ModelError when it is not found, not safe to load, of an unknown family, or its
    weights do not fit its configuration.
    """
    one_of("trunk_precision", trunk_precision, PRECISIONS)
    folder = sources.locate(name)
    if trunk_precision == "nf4":  # of numbers as the files hold them: in float32 the model would be there once as a whole
        model = lower(_read(folder, _as_stored(folder)), trunk_precision).to(dtype)
        give_back()
    else:
        model = _read(folder, dtype)
    return Backbone(str(name), folder, model.to(device), sources.model_id(folder), trunk_precision)


def _as_stored(folder: Path) -> torch.dtype:
    """The number format of a model's files, or float32 where they hold another, or several."""
    formats = {"F16": torch.float16, "BF16": torch.bfloat16}
    return next((dtype for name, dtype in formats.items() if float_formats(folder) == {name}), torch.float32)


def _frozen(weight: torch.Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(dtype), requires_grad=False)


def _read(folder: Path, dtype: torch.dtype) -> Any:
    """The library's model in a folder, on the processor, once it is seen to be safe and whole."""
    safety.verify(folder)
    config = safety.read_config(folder)
    family(config["model_type"])
    with _quiet():
        model, report = AutoModel.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype, output_loading_info=True
        )
    wrong = [k for k in report["missing_keys"] if "pooler." not in k] + [str(k) for k in report["mismatched_keys"]]
    if wrong:
        raise ModelError(
            f"{folder}: {len(wrong)} tensors are missing or of another shape: {', '.join(sorted(wrong)[:5])}. Get the model again."
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # its output is not used; without it a pass is a little cheaper
    return model


def _ends(folder: Path, config: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that end a text: what the model's settings for writing say, or its configuration, and the tokenizer's."""
    path = folder / "generation_config.json"
    settings = configs.read_json(path) if path.is_file() else {}
    said = settings.get("eos_token_id", getattr(config, "eos_token_id", None))
    found = [*(said if isinstance(said, list) else [said]), tokenizer.end_id]
    return tuple(sorted({one for one in found if one is not None}))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bar and its list of missing tensors: what is missing is judged by `load_backbone`."""
    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()


class _Reached(Exception):
    """Not an error: ends a pass at the cut, and carries the hidden states there."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.hidden = hidden


def _until(stop_at: nn.Module | None, stack: nn.Module, given: dict[str, Any]) -> torch.Tensor:
    """What enters the module `stop_at` in a pass of the stack, which ends there; without one, what the pass gives."""
    handle = stop_at.register_forward_pre_hook(_stop) if stop_at is not None else None
    try:
        return stack(**given).last_hidden_state
    except _Reached as reached:
        return reached.hidden
    finally:
        if handle is not None:
            handle.remove()


def _stop(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
    raise _Reached(arguments[0])
