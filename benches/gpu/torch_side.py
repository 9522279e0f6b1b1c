"""PyTorch's side: each call is a process of its own that prints one JSON line.

    torch_side.py versions | train | forward | generate MODEL ...

Training keeps the frozen weights in bf16 and, of what trains, a bf16 copy to compute with and an
f32 master that fused AdamW updates: no autocast, so nothing is cast again in every pass, and the
residual stream is bf16. It is the faster of the two common ways.
"""

import argparse
import json
import time
from collections import OrderedDict
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def load(folder, device, dtype):
    """A model directory; factored matrices `X.V` and `X.U` become two linear layers."""
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        for name, tensor in load_file(str(file), device=device).items():
            tensors[name] = tensor.to(dtype)
    config = LlamaConfig.from_pretrained(folder)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
        for name in [name for name in tensors if name.endswith(".V.weight")]:
            name = name.removesuffix(".V.weight")
            (rank, columns), rows = tensors[f"{name}.V.weight"].shape, len(tensors[f"{name}.U.weight"])
            parent, child = name.rsplit(".", 1)
            setattr(model.get_submodule(parent), child, nn.Sequential(OrderedDict(
                V=nn.Linear(columns, rank, bias=False), U=nn.Linear(rank, rows, bias=False))))
    model.load_state_dict(tensors, assign=True)
    # The rotary frequencies are computed, not stored.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config).to(device)
    return model.eval().requires_grad_(False)


def tokens_of(folder, text):
    vocab = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]["vocab"]
    return torch.tensor([vocab[word] for word in text.split()])


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def train(args):
    model = load(args.model, args.device, DTYPES[args.dtype]).train()
    for name, parameter in model.named_parameters():
        factor = name.endswith((".V.weight", ".U.weight"))
        parameter.requires_grad = factor or args.trainable == "full"
    if args.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    in_f32 = args.dtype == "f32"
    masters = trained if in_f32 else [parameter.detach().float() for parameter in trained]
    optimizer = torch.optim.AdamW(masters, lr=args.lr, weight_decay=0.0, fused=args.device == "cuda")
    tokens = tokens_of(args.model, Path(args.text).read_text())
    rows = tokens[: len(tokens) // args.seq_len * args.seq_len].view(-1, args.seq_len).to(args.device)
    losses, started = [], None
    for step in range(args.warmup + args.steps):
        if step == args.warmup:
            synchronize(args.device)
            started = time.perf_counter()
        batch = rows[torch.arange(step * args.batch, (step + 1) * args.batch) % len(rows)]
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        if not in_f32:
            for master, parameter in zip(masters, trained):
                master.grad, parameter.grad = parameter.grad.float(), None
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not in_f32:
            with torch.no_grad():
                torch._foreach_copy_(trained, masters)
        losses.append(loss.detach())
    synchronize(args.device)
    seconds = time.perf_counter() - started
    return {
        "tokens_per_second": args.steps * args.batch * args.seq_len / seconds,
        "losses": [loss.item() for loss in losses],
        "trainable": sum(parameter.numel() for parameter in trained),
    }


@torch.inference_mode()
def forward(args):
    model = load(args.model, args.device, DTYPES[args.dtype])
    tokens = tokens_of(args.model, Path(args.text).read_text())[: args.windows * args.seq_len]
    windows = tokens.view(args.windows, args.seq_len).to(args.device)

    def nll(batch):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")

    speeds = {}
    for size in args.batches:
        nll(windows[:size]), nll(windows[:size])  # warm-up
        synchronize(args.device)
        started = time.perf_counter()
        total = sum(nll(batch) for batch in windows.split(size)).double().item()
        speeds[size] = args.windows * args.seq_len / (time.perf_counter() - started)
    best = max(speeds, key=speeds.get)
    perplexity = float(torch.tensor(total / (args.windows * (args.seq_len - 1)), dtype=torch.float64).exp())
    return {"tokens_per_second": speeds[best], "perplexity": perplexity, "batch": best,
            "tokens_per_second_by_batch": speeds}


@torch.inference_mode()
def generate(args):
    model = load(args.model, args.device, DTYPES[args.dtype])
    prompt = tokens_of(args.model, args.prompt)[None].to(args.device)

    def run(length):
        synchronize(args.device)
        started = time.perf_counter()
        ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                             min_new_tokens=length, max_new_tokens=length, pad_token_id=0)
        synchronize(args.device)
        return time.perf_counter() - started, ids[0, prompt.shape[1]:].tolist()

    few, many = args.lengths
    run(few)
    (short, _), (long, ids) = run(few), run(many)
    return {"tokens_per_second": (many - few) / (long - short), "ids": ids}


def versions(_):
    return {"torch": torch.__version__, "transformers": transformers.__version__,
            "cuda_of_torch": torch.version.cuda, "torch_sees_gpu": torch.cuda.is_available()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["versions", "train", "forward", "generate"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--text")
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--windows", type=int)
    parser.add_argument("--trainable", choices=["lrc", "full"])
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--warmup", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--prompt")
    parser.add_argument("--lengths", type=int, nargs=2)
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    work = {"versions": versions, "train": train, "forward": forward, "generate": generate}
    try:
        result = work[args.what](args)
    except torch.cuda.OutOfMemoryError:
        result = {"error": "out of memory"}
    if args.device == "cuda" and args.what != "versions":
        result["max_memory_allocated"] = torch.cuda.max_memory_allocated()
        result["max_memory_reserved"] = torch.cuda.max_memory_reserved()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
