"""PyTorch's singular value decompositions in f32, to run in the same minutes as ours.

    python benches/torch_svd.py                # beside: cargo bench -p welore-burn --bench decomposition -- llama-2-7b --no-baseline
                                               # and:    cargo bench -p welore-burn --bench decomposition -- layer
    python benches/torch_svd.py MODEL          # beside: welore-cli analyze MODEL, compress MODEL --err 0.5
    python benches/torch_svd.py MODEL PLAN     # and factors the LRCs of a plan

Without MODEL it is LLaMA-2-7B's matrix shapes with matrices of the same kind as there, few strong directions and much
noise; with MODEL all projections of a Hugging Face directory, read before the clock starts.
"""

import json
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(2)


def svd(matrix):
    return torch.linalg.svd(matrix, full_matrices=False)


def seconds(work, *of):
    started = time.perf_counter()
    for matrix in of:
        work(matrix)
    return time.perf_counter() - started


def shapes():
    layer = {"svdvals": 0.0, "svd": 0.0}
    for rows, cols, count in [(4096, 4096, 4), (11008, 4096, 3)]:
        torch.manual_seed(0)
        strong = torch.randn(rows, 32) / torch.arange(1, 33) @ torch.randn(32, cols)
        matrix = 0.3 * strong + 0.1 * torch.randn(rows, cols)
        for name, work in [("svdvals", torch.linalg.svdvals), ("svd", svd)]:
            took = seconds(work, matrix)
            layer[name] += count * took
            print(f"{rows} x {cols} {name}: {took:.1f} s", flush=True)
    print("one layer, from these:", ", ".join(f"{name} {s:.1f} s" for name, s in layer.items()))


def model(directory, plan):
    from safetensors.torch import load_file

    tensors = {}
    for file in sorted(Path(directory).glob("*.safetensors")):
        tensors.update(load_file(file))
    matrices = {name.removesuffix(".weight"): tensor.float() for name, tensor in tensors.items() if "proj" in name}
    print(f"{len(matrices)} matrices, svdvals: {seconds(torch.linalg.svdvals, *matrices.values()):.2f} s", flush=True)
    print(f"{len(matrices)} matrices, svd: {seconds(svd, *matrices.values()):.2f} s", flush=True)
    if plan is None:
        return
    ranks = {m["name"]: m["rank"] for m in json.loads(Path(plan).read_text())["matrices"] if m["low_rank"]}

    def factor(name):
        u, s, v = svd(matrices[name])
        root = s[: ranks[name]].sqrt()
        return u[:, : ranks[name]] * root, root[:, None] * v[: ranks[name]]

    print(f"{len(ranks)} LRCs, factored: {seconds(factor, *ranks):.2f} s", flush=True)


if len(sys.argv) == 1:
    shapes()
else:
    model(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
