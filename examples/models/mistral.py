"""A decoder with a sliding window, and a text longer than the window."""

import torch
from transformers import MistralConfig, MistralForCausalLM

from attnc.integrations.transformers import register

sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
model = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=8)).eval()
ids = torch.randint(3, 99, (2, 20))
expected = model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)
model.set_attn_implementation(register("std:sliding_window", size=model.config.sliding_window))
tokens = model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)
print("same tokens:", torch.equal(tokens, expected))
