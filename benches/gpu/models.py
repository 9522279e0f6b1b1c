"""Models to measure on: their shapes, generated weights, a tokenizer and a text.

    models.py make SHAPE DIR [--device cuda]      a dense model directory
    models.py factor DIR OUT [--device cuda]      a factored one, where the binary takes too long
"""

import argparse
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    seq_len: int  # of training and of forward passes
    batch: int
    windows: tuple  # of forward passes: few and many; the difference is timed
    lengths: tuple  # of generation, likewise

    def matrices(self):
        """Name in a layer, rows, columns."""
        head = self.hidden // self.heads
        kv = self.kv_heads * head
        return [
            ("self_attn.q_proj", self.hidden, self.hidden),
            ("self_attn.k_proj", kv, self.hidden),
            ("self_attn.v_proj", kv, self.hidden),
            ("self_attn.o_proj", self.hidden, self.hidden),
            ("mlp.gate_proj", self.intermediate, self.hidden),
            ("mlp.up_proj", self.intermediate, self.hidden),
            ("mlp.down_proj", self.hidden, self.intermediate),
        ]

    def parameters(self):
        layer = sum(rows * columns for _, rows, columns in self.matrices()) + 2 * self.hidden
        return self.layers * layer + 2 * self.vocab * self.hidden + self.hidden

    def text_tokens(self, steps):
        return max(self.seq_len * self.windows[1], self.seq_len * self.batch * steps) + self.seq_len


SHAPES = {
    # LLaMA-2 7B and TinyLlama 1.1B, with the sequence and batch of the paper's continual tuning.
    "7b": Shape(4096, 11008, 32, 32, 32, 32000, 4096, 1024, 4, (8, 72), (16, 144)),
    "1b": Shape(2048, 5632, 22, 32, 4, 32000, 2048, 1024, 4, (8, 264), (16, 272)),
    # For correctness, and to try this script out.
    "small": Shape(256, 688, 4, 8, 4, 512, 512, 128, 2, (2, 8), (8, 32)),
    "tiny": Shape(64, 176, 2, 4, 2, 256, 256, 32, 2, (8, 64), (8, 64)),
}

# The share of singular values that matter, by matrix, as in LLaMA: queries, keys, attention's
# output and the gate are low-rank, values, up and down are not. More at both ends of the model.
SHARE = {"q_proj": 0.22, "k_proj": 0.20, "o_proj": 0.30, "gate_proj": 0.38}
SHARD_BYTES = 4 << 30


def share_of(name, layer, layers):
    base = SHARE.get(name.rsplit(".", 1)[-1])
    return base and base * (0.6 + 0.8 * abs(2 * layer / max(layers - 1, 1) - 1))


def matrix(torch, rows, columns, share, generator):
    """A Gaussian matrix, or one with a heavy tail: few large singular values that fall off
    slowly, then a floor of noise."""
    def gauss(*shape):
        return torch.randn(*shape, generator=generator, device=generator.device)

    weight = gauss(rows, columns)
    if share:
        rank = max(1, int(share * min(rows, columns)))
        values = 1 / (1 + 9 * torch.arange(rank, device=generator.device) / rank)
        weight *= 0.02 / (math.sqrt(rows) + math.sqrt(columns))
        weight += (gauss(rows, rank) * values) @ gauss(rank, columns) / math.sqrt(rows * columns)
    return weight * (0.7 / math.sqrt(columns)) / weight.std()


class Shards:
    """Writes tensors as sharded safetensors."""

    def __init__(self, folder):
        self.folder, self.pending, self.size, self.map = folder, {}, 0, {}

    def add(self, name, tensor):
        self.pending[name] = tensor.contiguous().cpu()
        self.size += tensor.numel() * tensor.element_size()
        if self.size >= SHARD_BYTES:
            self.flush()

    def flush(self):
        from safetensors.torch import save_file
        file = f"model-{len(set(self.map.values())) + 1:05}.safetensors"
        save_file(self.pending, str(self.folder / file), metadata={"format": "pt"})
        self.map.update(dict.fromkeys(self.pending, file))
        self.pending, self.size = {}, 0

    def finish(self):
        if self.pending:
            self.flush()
        index = {"metadata": {}, "weight_map": self.map}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make(shape, folder, device):
    """A dense model directory in bf16."""
    import torch
    generator = torch.Generator(device).manual_seed(0)
    shards = Shards(folder)
    head = torch.randn(shape.vocab, shape.hidden, generator=generator, device=device)
    # Logits with a standard deviation of 1.5, so that predictions differ.
    shards.add("lm_head.weight", (head * 1.5 / math.sqrt(shape.hidden)).bfloat16())
    embedding = torch.randn(shape.vocab, shape.hidden, generator=generator, device=device)
    shards.add("model.embed_tokens.weight", (embedding * 0.3).bfloat16())
    ones = torch.ones(shape.hidden).bfloat16()
    shards.add("model.norm.weight", ones.clone())
    for layer in range(shape.layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shards.add(f"model.layers.{layer}.{norm}.weight", ones.clone())
        for name, rows, columns in shape.matrices():
            share = share_of(name, layer, shape.layers)
            weight = matrix(torch, rows, columns, share, generator)
            if name.endswith(("o_proj", "down_proj")):
                weight /= math.sqrt(2 * shape.layers)
            shards.add(f"model.layers.{layer}.{name}.weight", weight.bfloat16())
    shards.finish()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.hidden // shape.heads,
        "vocab_size": shape.vocab, "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "attention_bias": False, "mlp_bias": False, "torch_dtype": "bfloat16",
        # Nothing ends a text: generation is timed over a fixed length.
        "bos_token_id": None, "eos_token_id": None,
    }, indent=1))
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None,
        "decoder": None, "model": {
            "type": "WordLevel", "unk_token": "w0",
            "vocab": {f"w{token}": token for token in range(shape.vocab)},
        },
    }))


def factor(source, folder, device):
    """A factored model directory at the ranks that the generator gave its matrices: what the
    measurements need where there is no time for decompositions. It has no plan file."""
    import torch
    from safetensors.torch import load_file
    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    shards = Shards(folder)
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(str(file)).items():
            name = name.removesuffix(".weight")
            parts = name.split(".")
            share = share_of(name, int(parts[2]), layers) if "layers" in parts else None
            if not share or share >= 0.5:
                shards.add(f"{name}.weight", tensor)
                continue
            rank = -(-int(share * min(tensor.shape)) // 16) * 16
            u, values, v = torch.svd_lowrank(tensor.to(device).float(), q=rank, niter=1)
            root = values.sqrt()
            shards.add(f"{name}.V.weight", (v * root).T.bfloat16())
            shards.add(f"{name}.U.weight", (u * root).bfloat16())
    shards.finish()
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(source / file, folder / file)


def write_text(path, vocab, tokens):
    """A text of so many tokens, common words more often than rare ones."""
    import numpy
    random = numpy.random.default_rng(0)
    weights = 1 / (numpy.arange(vocab) + 5.0)
    words = random.choice(vocab, size=tokens, p=weights / weights.sum())
    path.write_text(" ".join(f"w{word}" for word in words))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["make", "factor"])
    parser.add_argument("source", help="a shape, or a model directory")
    parser.add_argument("output", type=Path)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    # Beside its place first, so that a directory that is there is whole.
    partial = args.output.with_name(args.output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if args.what == "make":
        make(SHAPES[args.source], partial, args.device)
    else:
        factor(Path(args.source), partial, args.device)
    partial.rename(args.output)


if __name__ == "__main__":
    main()
