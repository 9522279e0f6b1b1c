"""PyTorch's decompositions of LLaMA-2-7B's matrix shapes in f32, to run beside

    cargo bench -p welore-burn --bench decomposition -- llama-2-7b --no-baseline
    cargo bench -p welore-burn --bench decomposition -- layer

The matrices are of the same kind: few strong directions and much noise.
"""

import time

import torch

torch.set_num_threads(2)
layer = {"svdvals": 0.0, "svd": 0.0}
for rows, cols, count in [(4096, 4096, 4), (11008, 4096, 3)]:
    torch.manual_seed(0)
    strong = torch.randn(rows, 32) / torch.arange(1, 33) @ torch.randn(32, cols)
    matrix = 0.3 * strong + 0.1 * torch.randn(rows, cols)
    for name, work in [
        ("svdvals", torch.linalg.svdvals),
        ("svd", lambda matrix: torch.linalg.svd(matrix, full_matrices=False)),
    ]:
        started = time.perf_counter()
        work(matrix)
        seconds = time.perf_counter() - started
        layer[name] += count * seconds
        print(f"{rows} x {cols} {name}: {seconds:.1f} s", flush=True)
print("one layer, from these:", ", ".join(f"{name} {s:.1f} s" for name, s in layer.items()))
