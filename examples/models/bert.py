"""An encoder on texts of different length."""

import torch
from transformers import BertConfig, BertModel

from attnc.integrations.transformers import register

sizes = {"vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
model = BertModel(BertConfig(**sizes, num_attention_heads=4)).eval()
ids = torch.randint(3, 99, (2, 12))
keep = torch.tensor([[1] * 7 + [0] * 5, [1] * 12])
expected = model(ids, attention_mask=keep).last_hidden_state[keep.bool()]
model.set_attn_implementation(register("std:full"))
hidden = model(ids, attention_mask=keep).last_hidden_state[keep.bool()]
print("same up to rounding:", torch.allclose(hidden, expected, rtol=0, atol=1e-5))
