"""A decoder with grouped heads, a left-padded batch and a KV cache: the tokens are those of sdpa."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from attnc.integrations.transformers import register

sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
ids = torch.randint(3, 99, (2, 12))
keep = torch.tensor([[0] * 5 + [1] * 7, [1] * 12])
expected = model.generate(ids, attention_mask=keep, max_new_tokens=9, do_sample=False, pad_token_id=0)
model.set_attn_implementation(register("std:causal"))
tokens = model.generate(ids, attention_mask=keep, max_new_tokens=9, do_sample=False, pad_token_id=0)
print("same tokens:", torch.equal(tokens, expected))
