"""An encoder with a learned bias per bucket of distances, which the spec computes from the model's own table."""

import torch
from transformers import T5Config, T5EncoderModel

from attnc.integrations.transformers import register

model = T5EncoderModel(T5Config(vocab_size=99, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4)).eval()
ids = torch.randint(3, 99, (2, 12))
keep = torch.tensor([[1] * 7 + [0] * 5, [1] * 12])
expected = model(ids, attention_mask=keep).last_hidden_state[keep.bool()]
table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
model.set_attn_implementation(register("std:t5", tensors={"table": table}, replaces=("position_bias",)))
hidden = model(ids, attention_mask=keep).last_hidden_state[keep.bool()]
print("same up to rounding:", torch.allclose(hidden, expected, rtol=0, atol=1e-4))
