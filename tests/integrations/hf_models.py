"""Tiny random models of transformers, and the comparison of two of their attentions."""

from __future__ import annotations

import copy
import os
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing is fetched
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
from torch import Tensor

SIZES = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
T5_SIZES = {"vocab_size": 99, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}


def hf() -> Any:
    """The library, loaded by the first test that needs it: that takes seconds."""
    import transformers

    return transformers


def llama(**changes: Any) -> Any:
    """A decoder with two key heads for four query heads."""
    config = hf().LlamaConfig(**{**SIZES, "num_key_value_heads": 2, "pad_token_id": 0, **changes})
    return hf().LlamaForCausalLM(config).eval()


def mistral(window: int | None) -> Any:
    """The same with a sliding window."""
    sizes = {**SIZES, "num_key_value_heads": 2, "pad_token_id": 0, "sliding_window": window}
    return hf().MistralForCausalLM(hf().MistralConfig(**sizes)).eval()


def bert(**changes: Any) -> Any:
    """An encoder."""
    return hf().BertModel(hf().BertConfig(**{**SIZES, **changes})).eval()


def t5_encoder() -> Any:
    """An encoder whose first layer has a table of biases, with values that matter."""
    model = hf().T5EncoderModel(hf().T5Config(**T5_SIZES)).eval()
    torch.nn.init.normal_(t5_table(model.encoder))
    return model


def t5_table(stack: Any) -> Tensor:
    """The bias of a T5 stack per bucket and head."""
    return stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight


def tokens(batch: int, length: int) -> Tensor:
    """Random ids, none of them special."""
    return torch.randint(3, 99, (batch, length))


def padding(batch: int, length: int, side: str) -> Tensor | None:
    """An attention mask: every sequence but the last is shorter."""
    if side == "none":
        return None
    keep = torch.ones(batch, length, dtype=torch.long)
    for row in range(batch - 1):
        missing = slice(0, 3 * row + 3) if side == "left" else slice(length - 3 * row - 3, length)
        keep[row, missing] = 0
    return keep


def run(model: Any, key: str, ids: Tensor, keep: Tensor | None = None, **inputs: Any) -> Tensor:
    """The model's first output under an attention implementation, at the tokens that are no padding."""
    model.set_attn_implementation(key)
    assert model.config._attn_implementation == key
    with torch.no_grad():
        out = model(ids, attention_mask=keep, **inputs)[0]
    if key.startswith("attnc"):  # padding included; some models of transformers have NaN there
        assert out.isfinite().all()
    return out if keep is None else out[keep.bool()]


def assert_as_good(model: Any, key: str, ids: Tensor, keep: Tensor | None = None, base: str = "sdpa") -> None:
    """Under `key` no further from the model in float64 than twice what `base` is, and two units in the last place."""
    exact = run(copy.deepcopy(model).double(), base, ids, keep)
    plain, found = (run(model, name, ids, keep) for name in (base, key))
    ulps = 2 * torch.finfo(found.dtype).eps * float(exact.abs().max())
    allowed = 2 * float((plain.double() - exact).abs().max()) + ulps
    assert float((found.double() - exact).abs().max()) <= allowed
