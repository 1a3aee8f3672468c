"""Models of transformers with attnc in every layer: the same outputs, tokens and gradients as without it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from attnc.integrations.transformers import register
from tests.integrations.hf_models import (
    SIZES,
    T5_SIZES,
    assert_as_good,
    bert,
    hf,
    llama,
    mistral,
    padding,
    run,
    t5_encoder,
    t5_table,
    tokens,
)

PER_PAIR = "attention per_pair(table: real[H, N, M]) {\n  bias table[h, i, j]\n}"
PACKED = "attention packed(seg: int[B, M]) {\n  mask seg[b, i] == seg[b, j] and j <= i\n}"
PADDED = "attention padded(real_token: bool[B, M]) {\n  mask real_token[b, j]\n}"


# -- a decoder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_llama_logits(side: str, key_heads: int) -> None:
    assert_as_good(llama(num_key_value_heads=key_heads), register("std:causal"), tokens(3, 20), padding(3, 20, side))


def test_llama_of_one_token() -> None:
    assert_as_good(llama(), register("std:causal"), tokens(1, 1))


GENERATIONS: dict[str, dict[str, Any]] = {
    "cache": {},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "beams": {"num_beams": 3},
    "beams, static cache": {"num_beams": 2, "cache_implementation": "static"},
    "prompt in chunks": {"prefill_chunk_size": 4},
}


def generated(model: Any, key: str, ids: Tensor, keep: Tensor | None, **how: Any) -> Tensor:
    model.set_attn_implementation(key)
    return model.generate(ids, attention_mask=keep, max_new_tokens=8, do_sample=False, pad_token_id=0, **how)


@pytest.mark.parametrize("how", GENERATIONS.values(), ids=GENERATIONS.keys())
def test_llama_generates_the_same_tokens(how: dict[str, Any]) -> None:
    model, ids, keep = llama(), tokens(3, 10), padding(3, 10, "left")
    assert generated(model, register("std:causal"), ids, keep, **how).equal(generated(model, "sdpa", ids, keep, **how))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("side", ["none", "left"])
def test_llama_continues_a_cache_with_several_tokens(static: bool, side: str) -> None:
    model, ids, keep = llama(), tokens(3, 12), padding(3, 12, side)
    model.set_attn_implementation(register("std:causal"))
    cache = hf().StaticCache(config=model.config, max_cache_len=32) if static else hf().DynamicCache()
    with torch.no_grad():
        for part in (slice(0, 5), slice(5, 9), slice(9, 10), slice(10, 12)):
            given = None if keep is None else keep[:, : part.stop]
            last = model(ids[:, part], attention_mask=given, past_key_values=cache).logits
        whole = model(ids, attention_mask=keep).logits[:, 10:]
    torch.testing.assert_close(last, whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_llama_gradients(checkpointing: bool | None) -> None:
    model, ids, keep = llama(), tokens(3, 12), padding(3, 12, "left")
    assert keep is not None
    labels = ids.masked_fill(keep == 0, -100)

    def gradients(key: str, checkpointing: bool | None = None) -> Tensor:
        trained = copy.deepcopy(model).train()
        trained.config.use_cache = False
        trained.set_attn_implementation(key)
        if checkpointing is not None:
            trained.activation_checkpointing_enable({"use_reentrant": checkpointing})
        trained(ids, attention_mask=keep, labels=labels).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in trained.parameters()])

    expected = gradients("sdpa")
    torch.testing.assert_close(gradients(register("std:causal"), checkpointing), expected, rtol=0, atol=1e-6)


def test_spec_that_sees_less_than_the_model_is_what_the_user_asked_for() -> None:
    """A window in a Llama makes it the Mistral of the same weights."""
    model, windowed = llama(), mistral(4)
    windowed.load_state_dict(model.state_dict())
    ids, keep = tokens(3, 16), padding(3, 16, "left")
    found = run(model, register("std:sliding_window", size=4), ids, keep)
    torch.testing.assert_close(found, run(windowed, "sdpa", ids, keep), rtol=0, atol=2e-6)
    assert not torch.allclose(found, run(model, "sdpa", ids, keep), rtol=0, atol=1e-2)


def test_dtypes_of_autocast_and_of_16_bits() -> None:
    model, ids, keep = llama(), tokens(3, 16), padding(3, 16, "left")
    key = register("std:causal")
    assert_as_good(copy.deepcopy(model).bfloat16(), key, ids, keep)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (run(model, name, ids, keep) for name in (key, "sdpa"))
    exact = run(model, "sdpa", ids, keep)
    assert found.dtype == expected.dtype
    assert (found - exact).abs().max() <= 2 * (expected - exact).abs().max() + 2**-7 * exact.abs().max()


# -- packed documents ------------------------------------------------------------------------------------------------


def test_packed_documents_through_a_spec_of_their_own() -> None:
    """transformers finds the documents in position ids that start anew; a function gives them to the spec."""

    def documents(_: Any, passed: Any) -> Tensor:
        positions = passed["position_ids"]
        return (positions.diff(prepend=positions[:, :1] - 1) != 1).cumsum(-1)

    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 0]])
    key = register(source=PACKED, tensors={"seg": documents})
    model, ids = llama(), tokens(1, 10)
    found, expected = (run(model, k, ids, position_ids=positions, use_cache=False) for k in (key, "sdpa"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


# -- encoders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_bert_hidden_states(side: str) -> None:
    assert_as_good(bert(), register("std:full"), tokens(3, 20), padding(3, 20, side))


@pytest.mark.parametrize("side", ["none", "right"])
def test_spec_that_takes_the_padding_itself(side: str) -> None:
    key = register(source=PADDED, tensors={"real_token": "attention_mask"})
    assert_as_good(bert(), key, tokens(3, 20), padding(3, 20, side))


def test_model_that_builds_no_mask() -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    model = hf().ViTModel(hf().ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    images = torch.randn(2, 3, 32, 32)
    found, expected = (run(model, key, images) for key in (register("std:full"), "sdpa"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["none", "right"])
@pytest.mark.parametrize("length", [20, 200])
def test_t5_encoder_computes_its_bias_in_the_spec(side: str, length: int) -> None:
    model = t5_encoder()
    key = register("std:t5", tensors={"table": t5_table(model.encoder)}, replaces=("position_bias",))
    assert_as_good(model, key, tokens(3, length), padding(3, length, side), base="eager")


def test_t5_encoder_gives_its_bias_to_the_spec() -> None:
    key = register(
        source=PER_PAIR, tensors={"table": lambda _, passed: passed["position_bias"][0]}, replaces=("scaling",)
    )
    unscaled = register(
        source=PER_PAIR.replace("{\n", "{\n  score dot(q, k)\n"),
        tensors={"table": lambda _, passed: passed["position_bias"][0]},
    )
    for name in (key, unscaled):
        assert_as_good(t5_encoder(), name, tokens(3, 20), padding(3, 20, "right"), base="eager")


def test_t5_table_gets_its_gradient_through_the_spec() -> None:
    model, ids = t5_encoder(), tokens(2, 12)
    table = t5_table(model.encoder)
    found = []
    for key in (register("std:t5", tensors={"table": table}, replaces=("position_bias",)), "eager"):
        model.set_attn_implementation(key)
        model.zero_grad()
        model(ids).last_hidden_state.square().sum().backward()
        found.append(table.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_t5_with_attnc_in_the_encoder_alone() -> None:
    model = hf().T5ForConditionalGeneration(hf().T5Config(**T5_SIZES, decoder_start_token_id=0, pad_token_id=0)).eval()
    ids = tokens(2, 10)
    expected = generated(model, "sdpa", ids, None)
    key = register("std:t5", tensors={"table": t5_table(model.encoder)}, replaces=("position_bias",))
    model.encoder.set_attn_implementation(key)
    assert model.decoder.config._attn_implementation == "sdpa"
    assert model.generate(ids, max_new_tokens=8, do_sample=False).equal(expected)


# -- windows, caps, sinks --------------------------------------------------------------------------------------------


def test_mistral_logits_past_the_window() -> None:
    assert_as_good(mistral(6), register("std:sliding_window", size=6), tokens(3, 20), padding(3, 20, "left"))


@pytest.mark.parametrize("how", [{}, {"cache_implementation": "static"}, {"use_cache": False}], ids=str)
@pytest.mark.parametrize("prompt", [4, 9])
def test_mistral_generates_the_same_tokens_past_the_window(how: dict[str, Any], prompt: int) -> None:
    model, ids, keep = mistral(6), tokens(2, prompt), padding(2, prompt, "left")
    key = register("std:sliding_window", size=6)
    assert generated(model, key, ids, keep, **how).equal(generated(model, "sdpa", ids, keep, **how))


def test_soft_cap_that_the_spec_computes() -> None:
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 32, "pad_token_id": 0}
    model = hf().Gemma2ForCausalLM(hf().Gemma2Config(**sizes)).eval()
    key = register("std:softcap", replaces=("softcap",), cap=model.config.attn_logit_softcapping, causal=True)
    ids, keep = tokens(3, 12), padding(3, 12, "left")
    found, expected = (run(model, name, ids, keep) for name in (key, "eager"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_sinks_that_the_model_gives_to_the_spec() -> None:
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4, "pad_token_id": 0}
    model = hf().GptOssForCausalLM(hf().GptOssConfig(**sizes)).eval()
    key = register("std:softmax_sink", tensors={"sink": "s_aux"}, causal=True)
    ids, keep = tokens(3, 12), padding(3, 12, "left")
    found, expected = (run(model, name, ids, keep) for name in (key, "eager"))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
