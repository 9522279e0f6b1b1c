import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


class LowRank(nn.Module):
    def __init__(self, v, made, pivots, bias):
        super().__init__()
        self.v, self.made, self.bias, self.order = v, made, bias, None
        if pivots is not None:  # V holds rows of the matrix, C computes the others from them
            others = sorted(set(range(len(v) + len(made))) - set(pivots.tolist()))
            self.order = torch.cat([pivots.long(), torch.tensor(others, dtype=torch.long)]).argsort()

    def forward(self, x):
        z = x @ self.v.T
        y = z @ self.made.T if self.order is None else torch.cat([z, z @ self.made.T], -1)[..., self.order]
        return y if self.bias is None else y + self.bias


index = Path("model.safetensors.index.json")
files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else ["model.safetensors"]
tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
dtype = next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained("."), dtype=dtype)
for x in [name.removesuffix(".V.weight") for name in tensors if name.endswith(".V.weight")]:
    made = tensors.pop(f"{x}.U.weight" if f"{x}.U.weight" in tensors else f"{x}.C.weight")
    pivots, bias = (tensors.pop(f"{x}.{part}", None) for part in ("pivots", "bias"))
    model.set_submodule(x, LowRank(tensors.pop(f"{x}.V.weight"), made, pivots, bias))
if "embed_out.weight" in tensors and "lm_head.weight" in model.state_dict():  # GPT-NeoX in transformers 5
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
loaded = model.load_state_dict(tensors, strict=False)
assert not loaded.unexpected_keys and set(loaded.missing_keys) <= {"lm_head.weight"}
tokenizer = AutoTokenizer.from_pretrained(".")
output = model.eval().generate(**tokenizer("The capital of France is", return_tensors="pt"), max_new_tokens=20)
print(tokenizer.decode(output[0]))
