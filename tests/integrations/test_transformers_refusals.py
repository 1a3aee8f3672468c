"""What a model asks and a spec does not contain is refused by name; so are keys that would not work."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attnc import CallError, SpecError
from attnc.integrations import _hf_library
from attnc.integrations._hf_check import DENSE, Given, Implication, _sample
from attnc.integrations._hf_mask import ModelMask, build_mask, kind_of
from attnc.integrations.transformers import register, unregister
from attnc.ops import compile as compile_op
from tests.integrations.hf_models import SIZES, T5_SIZES, bert, hf, llama, mistral, t5_encoder, t5_table, tokens


def refused(model: Any, key: str, words: str, *inputs: Any, **named: Any) -> None:
    """A forward pass raises CallError, whose text has these words."""
    model.set_attn_implementation(key)
    with pytest.raises(CallError, match=re.escape(words)):
        model(*inputs, **named)


# -- masks -----------------------------------------------------------------------------------------------------------


def test_spec_that_looks_ahead_in_a_decoder() -> None:
    refused(llama(), register("std:full"), "query 0 sees key 1, which the model's own mask hides", tokens(1, 5))


def test_spec_that_sees_beyond_the_window() -> None:
    for key in (register("std:causal"), register("std:sliding_window", size=7)):
        refused(mistral(6), key, "sliding_window_overlay and causal_mask_function", tokens(1, 12))


def test_spec_that_sees_across_packed_documents() -> None:
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    words = "query 4 sees key 0, which the model's own mask hides"
    refused(llama(), register("std:causal"), words, tokens(1, 8), position_ids=positions, use_cache=False)


def test_padding_hides_what_a_spec_would_leak() -> None:
    """Where only padding lies beyond the model's mask the spec sees nothing of it."""
    model, keep = mistral(6), torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]])
    model.set_attn_implementation(register("std:causal"))
    model(tokens(1, 10), attention_mask=keep)


def test_mask_made_by_the_user() -> None:
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    refused(llama(), register("std:causal"), "attention_mask: got a Tensor [1, 1, 5, 5]", tokens(1, 5), mask)


def test_model_that_cuts_or_computes_with_its_mask() -> None:
    mask = build_mask(batch_size=1, q_length=2, kv_length=2, mask_function=max)
    with pytest.raises(CallError, match="cuts its mask"):
        mask[..., :1]
    with pytest.raises(CallError, match=r"computes with its mask \(add\)"):
        torch.ones(2) + mask


def test_positions_across_two_sequences() -> None:
    sizes = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 99}
    model = hf().BartModel(hf().BartConfig(**sizes, **heads, max_position_embeddings=64)).eval()
    for length in (5, 8):
        words = "causal reads positions, but BartAttention is cross-attention"
        refused(model, register("std:causal"), words, tokens(1, 8), decoder_input_ids=tokens(1, length))


def test_whole_t5_is_refused_where_its_decoder_looks_ahead() -> None:
    model = hf().T5Model(hf().T5Config(**T5_SIZES)).eval()
    key = register("std:t5", tensors={"table": t5_table(model.encoder)}, replaces=("position_bias",))
    words = "t5 sees more than this model allows"
    refused(model, key, words, tokens(1, 5), decoder_input_ids=tokens(1, 5))


# -- what models pass ------------------------------------------------------------------------------------------------


def test_dropout_in_training_only() -> None:
    model = llama(attention_dropout=0.1)
    key = register("std:causal")
    refused(model.train(), key, "dropout: the model drops 0.1", tokens(1, 5))
    model.eval()(tokens(1, 5))


def test_matrix_of_weights() -> None:
    words = "output_attentions: a fused attention has no matrix"
    refused(llama(), register("std:causal"), words, tokens(1, 5), output_attentions=True)


def test_bias_of_the_model() -> None:
    refused(t5_encoder(), register("std:full"), "position_bias: T5Attention passes it", tokens(1, 5))


def test_scale_that_the_spec_does_not_read() -> None:
    key = register(source="attention unscaled {\n  mask j <= i\n  score dot(q, k)\n}")
    refused(llama(), key, "scaling: LlamaAttention multiplies q . k by 0.25", tokens(1, 5))


def test_soft_cap_and_sinks() -> None:
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
    capped = hf().Gemma2ForCausalLM(hf().Gemma2Config(**sizes)).eval()
    refused(capped, register("std:causal"), "softcap: Gemma2Attention passes it", tokens(1, 5))
    sunk = hf().GptOssForCausalLM(hf().GptOssConfig(**sizes, num_local_experts=4)).eval()
    refused(sunk, register("std:causal"), "s_aux: GptOssAttention passes it", tokens(1, 5))


def test_anything_unknown() -> None:
    refused(llama(), register("std:causal"), "head_mask: LlamaAttention passes it", tokens(1, 5), head_mask=[1])


def test_source_that_the_model_does_not_pass() -> None:
    key = register("std:alibi", tensors={"slope": "slopes"})
    refused(llama(), key, "slope: it is to come from `slopes`, which LlamaAttention does not pass", tokens(1, 5))


# -- keys ------------------------------------------------------------------------------------------------------------


def test_same_arguments_give_the_same_key_and_others_another() -> None:
    slope = torch.ones(4)
    again: list[Callable[[], str]] = [
        lambda: register("std:causal"),
        lambda: register("std:sliding_window", size=4),
        lambda: register("std:sliding_window", size=5),
        lambda: register("std:causal", backend="torch"),
        lambda: register("std:t5", tensors={"table": slope}),
        lambda: register("std:t5", tensors={"table": slope.clone()}),
        lambda: register("std:t5", tensors={"table": slope}, replaces=("position_bias",)),
    ]
    keys = [make() for make in again]
    assert len(set(keys)) == len(keys)
    assert [make() for make in again[:5]] == keys[:5]
    assert re.fullmatch(r"attnc_causal_[0-9a-f]{8}", keys[0])


def test_key_has_no_word_that_transformers_looks_for() -> None:
    key = register(source="attention flash_or_sdpa {\n}")
    assert re.fullmatch(r"attnc_spec_[0-9a-f]{8}", key)


def test_attention_and_mask_are_registered_and_forgotten_together() -> None:
    found = _hf_library.library()
    key = register("std:causal", name="attnc_test_key")
    assert key == "attnc_test_key"
    assert register("std:causal", name="attnc_test_key") == key
    assert key in found.attentions()
    assert key in found.masks()
    with pytest.raises(CallError, match="registered for something else"):
        register("std:full", name="attnc_test_key")
    unregister(key)
    assert key not in found.attentions()
    assert key not in found.masks()
    with pytest.raises(CallError, match="no key of attnc"):
        unregister(key)


@pytest.mark.parametrize("name", ["", "a/b", "a-b", "my_flash", "SDPA2", "eager", "flex_attention"])
def test_names_that_would_not_work(name: str) -> None:
    with pytest.raises(CallError, match="name: "):
        register("std:causal", name=name)


def test_tensors_are_checked_when_registering() -> None:
    with pytest.raises(CallError, match="alibi needs `slope`: register with tensors="):
        register("std:alibi")
    with pytest.raises(CallError, match="did you mean `slope`"):
        register("std:alibi", tensors={"slop": torch.ones(4)})
    with pytest.raises(CallError, match="replaces: expected a collection"):
        register("std:full", replaces="softcap")
    with pytest.raises(SpecError, match="no static parameter `siz`"):
        register("std:sliding_window", siz=4)


def test_transformers_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hf_library, "library", _hf_library.library.__wrapped__)
    masking = importlib.import_module("transformers.masking_utils")
    with monkeypatch.context() as patch:
        patch.setattr(masking, "sdpa_mask", lambda cache_position: None)
        with pytest.raises(ImportError, match="is too old for attnc"):
            _hf_library.library()
    with monkeypatch.context() as patch:
        patch.delattr(masking, "AttentionMaskInterface")
        with pytest.raises(ImportError, match="is too old for attnc"):
            _hf_library.library()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="needs transformers: pip install"):
        _hf_library.library()


# -- the comparison of masks -----------------------------------------------------------------------------------------


def asked(length: int, allowed: Callable[..., Any], keep: Tensor | None = None) -> ModelMask:
    return ModelMask(1, length, length, 0, 0, allowed, keep)


def windowed(size: int) -> Callable[..., Any]:
    from transformers.masking_utils import sliding_window_causal_mask_function

    return sliding_window_causal_mask_function(size)


ONE_HEAD = Given(1, 1, {}, {})


def test_comparison_of_positions_alone_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    implication = Implication(compile_op("std:sliding_window", params={"size": 6}).module)
    implication.check(asked(20, windowed(6)), ONE_HEAD)
    monkeypatch.setattr(implication, "_first_leak", lambda *_: pytest.fail("compared again"))
    for length in (1, 21, 256):
        implication.check(asked(length, windowed(6)), ONE_HEAD)


def test_masks_that_differ_beyond_the_call_are_compared_on_the_call() -> None:
    implication = Implication(compile_op("std:causal").module)
    for length in (5, 6, 5):
        implication.check(asked(length, windowed(6)), ONE_HEAD)
    with pytest.raises(CallError, match="query 6 sees key 0"):
        implication.check(asked(7, windowed(6)), ONE_HEAD)


def test_long_masks_are_compared_on_a_sample() -> None:
    implication = Implication(compile_op("std:causal").module)
    with pytest.raises(CallError, match=r"query \d+ sees key 0"):
        implication.check(asked(6000, windowed(5000)), ONE_HEAD)
    Implication(compile_op("std:sliding_window", params={"size": 5000}).module).check(
        asked(6000, windowed(5000)), ONE_HEAD
    )


def test_sample_has_the_boundaries() -> None:
    assert _sample(20, 5).tolist() == list(range(20))
    rows = set(_sample(100_000, DENSE // 100_000).tolist())
    assert {0, 1, 2, 1023, 1024, 1025, 65_535, 65_536, 65_537, 99_998, 99_999} <= rows
    assert 32 <= len(rows) <= 200


def test_functions_of_data_and_of_users_have_no_kind() -> None:
    from transformers.masking_utils import and_masks, causal_mask_function, packed_sequence_mask_function

    assert kind_of(windowed(5)) == kind_of(windowed(5))
    assert kind_of(windowed(5)) != kind_of(windowed(6))
    assert kind_of(and_masks(causal_mask_function, packed_sequence_mask_function(torch.zeros(1, 4)))) is None
    assert kind_of(lambda b, h, i, j: j <= i) is None


def test_heads_are_compared_one_by_one() -> None:
    """A mask that gives every head its own window leaks through the widest."""
    module = compile_op(source="attention staircase {\n  mask 0 <= i - j < 2 + h\n}").module
    Implication(module).check(asked(9, windowed(4)), Given(3, 3, {}, {}))
    with pytest.raises(CallError, match=r"query 4 sees key 0 \(sequence 0, head 3\)"):
        Implication(module).check(asked(9, windowed(4)), Given(4, 4, {}, {}))


def test_predicate_that_takes_numbers_only() -> None:
    mask = ModelMask(1, 6, 6, 0, 0, lambda _b, _h, i, j: (j <= i) & (i - j < 3), use_vmap=True)
    Implication(compile_op("std:sliding_window", params={"size": 3}).module).check(mask, ONE_HEAD)
    with pytest.raises(CallError, match="query 3 sees key 0"):
        Implication(compile_op("std:causal").module).check(mask, ONE_HEAD)


def test_bert_may_be_given_any_spec() -> None:
    model = bert()
    for key in (register("std:causal"), register("std:neighborhood_1d", length=12, window=3)):
        model.set_attn_implementation(key)
        model(tokens(2, 12))
