"""Tiny random models, one for each family, saved as folders such as a user would have: config, safetensors, tokenizer."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

TEXTS = [
    "my card has not arrived yet and i am waiting",
    "please cancel the order, i changed my mind about it",
    "refund the money to my account today",
    "who can help me with the password for my account",
    "the package was damaged when it arrived",
    "订单还没有到 请帮我查一下",
    "我要退款 谢谢",
]
_LLAMA = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 4, "intermediate_size": 32,
          "tie_word_embeddings": True}  # fmt: skip
_BERT = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 32, "max_position_embeddings": 64}
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu"}
_BART = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
         "decoder_ffn_dim": 32, "max_position_embeddings": 64, "decoder_start_token_id": 3, "forced_eos_token_id": None}  # fmt: skip
SIZES: dict[str, dict] = {
    "bert": _BERT,
    "electra": {**_BERT, "embedding_size": 8},
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "mpnet": _BERT,
    "distilbert": {"dim": 16, "n_heads": 2, "n_layers": 3, "hidden_dim": 32, "max_position_embeddings": 64},
    "deberta-v2": {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "conv_kernel_size": 3},
    "modernbert": {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 32, "global_attn_every_n_layers": 3,
                   "local_attention": 4, "max_position_embeddings": 64},
    "albert": {**_BERT, "embedding_size": 8},
    "gpt2": {"n_embd": 16, "n_head": 2, "n_layer": 4, "n_positions": 64},
    "gpt_neox": {**_BERT, "num_hidden_layers": 4},
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "sliding_window": 4},
    "qwen2": _LLAMA,
    "qwen3": {**_LLAMA, "head_dim": 8},
    "gemma2": {**_LLAMA, "head_dim": 8, "sliding_window": 4},
    "gemma3_text": {**_LLAMA, "head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "smollm3": {**_LLAMA, "no_rope_layers": [1, 0, 1, 0]},
    "phi3": {**_LLAMA, "num_key_value_heads": 2},
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "bart": _BART,
    "pegasus": _BART,
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """A word-piece tokenizer of the words and letters of a few sentences. (One that is *trained* breaks ties by chance, and models with it.)"""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for text in TEXTS for word in re.findall(r"[a-z]+|[^\sa-z]", text)})
    letters = sorted({letter for word in words for letter in word})
    pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), *words])
    made = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], special))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **names)


def save(model_type: str, folder: Path, words: PreTrainedTokenizerFast | None = None) -> Path:
    """A tiny model with random weights, large enough that every layer changes the states visibly."""
    words = words or tokenizer()
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(words),
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3 if words.eos_token_id is None else words.eos_token_id,
        **SIZES[model_type],
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


QUICK = ("bert", "deberta-v2", "gpt2", "llama", "modernbert", "t5", "xlm-roberta")
"""The families of the quick tests; the others are among the wide ones."""


def families() -> list[Any]:
    """Every family as a parameter of a fixture."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.wide) for name in sorted(SIZES)]


def letters(longest: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes, so that any text can be written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({piece: n for n, piece in enumerate(["<pad>", "<s>", "</s>", *alphabet])}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=longest)
