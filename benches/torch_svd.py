"""PyTorch's decompositions of LLaMA-2-7B's matrix shapes in f32, to run beside

    cargo bench -p welore-burn --bench decomposition -- llama-2-7b --no-baseline

The matrices are of the same kind: few strong directions and much noise.
"""

import time

import torch

torch.set_num_threads(2)
for rows, cols in [(4096, 4096), (11008, 4096)]:
    torch.manual_seed(0)
    strong = torch.randn(rows, 32) / torch.arange(1, 33) @ torch.randn(32, cols)
    matrix = 0.3 * strong + 0.1 * torch.randn(rows, cols)
    for name, work in [
        ("svdvals", torch.linalg.svdvals),
        ("svd", lambda matrix: torch.linalg.svd(matrix, full_matrices=False)),
    ]:
        started = time.perf_counter()
        work(matrix)
        print(f"{rows} x {cols} {name}: {time.perf_counter() - started:.1f} s", flush=True)
