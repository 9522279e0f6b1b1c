"""Load a factored model directory of welore in PyTorch, without multiplying it out.

    pip install torch transformers safetensors
    python load_factored.py DIR                                # continues a prompt
    python load_factored.py DIR --prompt "Once upon a time"
    python load_factored.py DIR --text FILE --blocks 2         # perplexity, as `welore-cli eval` counts it
    python load_factored.py DIR --against DENSE                # logits beside those of `welore-cli export --dense`

A factored matrix X, [out, in] and of rank r, is stored in one of two ways:

    factors   X.V.weight [r, in], X.U.weight [out, r]                  X = U V
    pivot     X.V.weight [r, in], X.C.weight [out - r, r], X.pivots [r]
              the rows of X with the numbers in `pivots` are the rows of V;
              the others, in rising order, are the rows of C V

A bias is still called X.bias, and all other tensors are those of the Hugging Face model. Also where that
model stores weights as [in, out] (GPT-2's Conv1D), the factors are as above, those of a linear layer. Of a
model with experts, and of one in llama.cpp's blocks (`compress --for welore`), load what `welore-cli export
--dense` writes.
"""

import argparse
import json
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig


class LowRankLinear(nn.Module):
    """A linear layer that multiplies by its two factors, one after the other.

    Its parameters have the names they have in the files. `pivots` is given for the pivoted form only.
    """

    def __init__(self, d_input, d_output, rank, bias=False, pivots=None):
        super().__init__()
        self.V = nn.Linear(d_input, rank, bias=False)
        self.bias = nn.Parameter(torch.empty(d_output)) if bias else None
        if pivots is None:
            self.U = nn.Linear(rank, d_output, bias=False)
            return
        self.C = nn.Linear(rank, d_output - rank, bias=False)
        self.register_buffer("pivots", pivots)
        is_pivot = torch.zeros(d_output, dtype=torch.bool, device=pivots.device)
        is_pivot[pivots.long()] = True
        others = (~is_pivot).nonzero().flatten()
        # Outputs are computed pivots first, then the others; this is where each one is among them.
        self.register_buffer("order", torch.cat([pivots.long(), others]).argsort(), persistent=False)

    def forward(self, x):
        z = self.V(x)
        y = self.U(z) if hasattr(self, "U") else torch.cat([z, self.C(z)], -1)[..., self.order]
        return y if self.bias is None else y + self.bias


def read_tensors(directory):
    """All tensors of a model directory, from one file or from shards."""
    index = directory / "model.safetensors.index.json"
    files = {"model.safetensors"}
    if index.is_file():
        files = set(json.loads(index.read_text())["weight_map"].values())
    tensors = {}
    for file in sorted(files):
        tensors.update(load_file(directory / file))
    return tensors


@contextmanager
def without_memory_for_weights():
    """Parameters that are made meanwhile take no memory; buffers are made as always."""
    register = nn.Module.register_parameter

    def on_meta(module, name, parameter):
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


def check(names):
    """Refuses what transformers has no layers for."""
    if any(".weight." in name or ".weight_t." in name for name in names):
        raise ValueError("some matrices are in llama.cpp's blocks; load what `welore-cli export --dense` writes")
    if any(".experts." in name for name in names):
        raise ValueError("the model has experts; load what `welore-cli export --dense` writes")


def load_factored(directory, dtype=None):
    """The model in a directory, in eval mode on the CPU. Matrices that are factored in the files stay factored.

    Weights keep their stored type unless `dtype` names another. Dense directories load too.
    """
    directory = Path(directory)
    config = AutoConfig.from_pretrained(directory)
    tensors = {name: t for name, t in read_tensors(directory).items() if "rotary_emb" not in name}
    check(tensors)
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    # All of them will be replaced.
    with without_memory_for_weights():
        model = AutoModelForCausalLM.from_config(config)
    for name in [name.removesuffix(".V.weight") for name in tensors if name.endswith(".V.weight")]:
        rank, d_input = tensors[f"{name}.V.weight"].shape
        pivots, has_bias = tensors.get(f"{name}.pivots"), f"{name}.bias" in tensors
        d_output = len(tensors[f"{name}.U.weight"]) if pivots is None else rank + len(tensors[f"{name}.C.weight"])
        with torch.device("meta" if pivots is None else "cpu"):
            layer = LowRankLinear(d_input, d_output, rank, has_bias, pivots)
        model.set_submodule(name, layer)
    if "embed_out.weight" in tensors and "lm_head.weight" in model.state_dict():  # GPT-NeoX in transformers 5
        tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    if config.tie_word_embeddings:
        names = {part: name for name, part in model.named_modules()}
        embedding, head = (names[part] for part in (model.get_input_embeddings(), model.get_output_embeddings()))
        tensors[f"{head}.weight"] = tensors[f"{embedding}.weight"]
    model.load_state_dict(tensors, strict=True, assign=True)
    model.tie_weights()
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model.eval()


@torch.no_grad()
def perplexity(model, tokens, seq_len, blocks):
    """Over `blocks` consecutive windows, each read from its start; every token but the first is predicted."""
    starts = range(0, len(tokens) - seq_len + 1, seq_len)[:blocks]
    nll = 0.0
    for block in (torch.tensor(tokens[start : start + seq_len]) for start in starts):
        logits = model(block[None]).logits[0, :-1].float()
        nll += nn.functional.cross_entropy(logits, block[1:], reduction="sum").item()
    return torch.tensor(nll / (len(starts) * (seq_len - 1))).exp().item()


@torch.no_grad()
def largest_difference(model, other):
    """The largest difference of a logit over random tokens, and the largest logit."""
    tokens = torch.randint(model.config.vocab_size, (2, 48), generator=torch.Generator().manual_seed(0))
    ours, theirs = (m(tokens).logits.double() for m in (model, other))
    return (ours - theirs).abs().max().item(), theirs.abs().max().item()


def main():
    parser = argparse.ArgumentParser(description="Load a factored model directory of welore in PyTorch")
    parser.add_argument("directory")
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--max-new-tokens", type=int, default=20)
    parser.add_argument("--text", help="measure perplexity on this file instead")
    parser.add_argument("--against", metavar="DENSE", help="compare with this dense directory instead")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--seq-len", type=int, default=512)
    args = parser.parse_args()

    model = load_factored(args.directory)
    factored = sum(isinstance(part, LowRankLinear) for part in model.modules())
    print(f"{factored} factored matrices, {sum(p.numel() for p in model.parameters())} parameters")
    if args.against:
        dense = AutoModelForCausalLM.from_pretrained(args.against).eval()
        print("logits differ by {:.1e} at most, the largest is {:.1f}".format(*largest_difference(model, dense)))
    elif args.text:
        text = Path(args.text).read_text(encoding="utf-8")
        tokens = AutoTokenizer.from_pretrained(args.directory)(text, add_special_tokens=False)["input_ids"]
        print(f"perplexity {perplexity(model, tokens, args.seq_len, args.blocks):.4f}")
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.directory)
        inputs = tokenizer(args.prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False)
        print(tokenizer.decode(output[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
