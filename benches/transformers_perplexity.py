"""Perplexity and speed of a Hugging Face model directory in PyTorch, as `welore-cli eval` defines them.

    pip install torch transformers
    python transformers_perplexity.py MODEL TEXT [--seq-len 512] [--windows 8] [--threads N]

Also the check that `export --dense` writes what transformers can load.
"""

import argparse
import json
import math
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--seq-len", type=int, default=512)
parser.add_argument("--windows", type=int, default=8)
parser.add_argument("--threads", type=int)
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(args.model)
with open(args.text, encoding="utf-8") as file:
    ids = tokenizer(file.read(), add_special_tokens=False, return_tensors="pt").input_ids[0]
windows = ids[: len(ids) // args.seq_len * args.seq_len].view(-1, args.seq_len)[: args.windows]


@torch.no_grad()
def nll(window):
    logits = model(window[None]).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()


nll(windows[0])  # the first pass allocates
start = time.time()
total = sum(nll(window) for window in windows)
seconds = time.time() - start
print(json.dumps({
    "perplexity": math.exp(total / (len(windows) * (args.seq_len - 1))),
    "tokens_per_second": windows.numel() / seconds,
    "parameters": sum(p.numel() for p in model.parameters()),
}))
