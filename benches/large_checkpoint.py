"""Generates a sharded Hugging Face checkpoint of LLaMA-2-7B's shapes, with heavy-tailed weights.

    python benches/large_checkpoint.py OUT [--layers N] [--tokenizer-from DIR] [--seed N]

Each matrix is a sum of a few hundred directions whose strengths fall by a power law, and of
Gaussian noise; exponent and share of the noise differ by matrix type and by layer, so that plans
differ by matrix as on real models. 32 layers take 13.5 GB, in bf16. Written a tensor at a time
into shards of at most 1 GB: this process stays below 3 GB.
"""

import argparse
import json
import math
import pathlib
import shutil

import torch
from safetensors.torch import save_file

HIDDEN, INTERMEDIATE, HEADS, VOCAB = 4096, 11008, 32, 32000
DIRECTIONS = 384
SHARD = 1_000_000_000  # Writing a shard copies it once.
# Type: (rows, columns, exponent of the power law, standard deviation of the noise to signal).
MATRICES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN, 1.1, 0.3),
    "self_attn.k_proj": (HIDDEN, HIDDEN, 1.2, 0.3),
    "self_attn.v_proj": (HIDDEN, HIDDEN, 0.6, 0.9),
    "self_attn.o_proj": (HIDDEN, HIDDEN, 0.6, 0.8),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN, 0.8, 0.6),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN, 0.5, 1.0),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE, 0.5, 1.0),
}


def heavy_tailed(rows, columns, exponent, noise, generator):
    """bf16 [rows, columns] with entries of about 0.02."""
    strengths = torch.arange(1, DIRECTIONS + 1, dtype=torch.float32) ** -exponent
    strengths /= strengths.square().sum().sqrt()
    left = torch.randn(rows, DIRECTIONS, generator=generator) * strengths
    weight = left @ torch.randn(DIRECTIONS, columns, generator=generator)
    del left
    # In pieces: noise for all of it at once would double the memory.
    for start in range(0, rows, 1024):
        piece = weight[start : start + 1024]
        piece += noise * torch.randn(piece.shape, generator=generator)
    weight *= 0.02 / math.sqrt(1 + noise**2)
    return weight.to(torch.bfloat16)


def tensors(layers, generator):
    """Every tensor's name, its bytes, and how it is made."""
    table = lambda: (0.02 * torch.randn(VOCAB, HIDDEN, generator=generator)).to(torch.bfloat16)
    ones = lambda: torch.ones(HIDDEN, dtype=torch.bfloat16)
    yield "model.embed_tokens.weight", 2 * VOCAB * HIDDEN, table
    for layer in range(layers):
        # Early layers are of lower rank than late ones.
        depth = layer / max(layers - 1, 1)
        for name, (rows, columns, exponent, noise) in MATRICES.items():
            make = lambda r=rows, c=columns, e=exponent * (1.25 - 0.5 * depth), n=noise * (
                0.6 + 0.8 * depth
            ): heavy_tailed(r, c, e, n, generator)
            yield f"model.layers.{layer}.{name}.weight", 2 * rows * columns, make
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", 2 * HIDDEN, ones
    yield "model.norm.weight", 2 * HIDDEN, ones
    yield "lm_head.weight", 2 * VOCAB * HIDDEN, table


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokenizer-from", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    generator = torch.Generator().manual_seed(args.seed)

    shards, weight_map, total = [{}], {}, 0

    def flush():
        path = args.out / f"shard-{len(shards)}.partial"
        save_file(shards[-1], path, metadata={"format": "pt"})
        names = list(shards[-1])
        shards[-1] = (path, names)
        print(f"{total / 1e9:.1f} GB", flush=True)

    size = 0
    for name, bytes_, make in tensors(args.layers, generator):
        if size and size + bytes_ > SHARD:
            flush()
            shards.append({})
            size = 0
        shards[-1][name] = make()
        size += bytes_
        total += bytes_
    flush()
    for index, (path, names) in enumerate(shards, 1):
        file = f"model-{index:05}-of-{len(shards):05}.safetensors"
        path.rename(args.out / file)
        weight_map.update((name, file) for name in names)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (args.out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": args.layers,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=1))
    if args.tokenizer_from:
        shutil.copy(args.tokenizer_from / "tokenizer.json", args.out)


if __name__ == "__main__":
    main()
