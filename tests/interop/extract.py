"""Compares what `extract` and `repair` write with torch, the PEFT library, and llama.cpp where it is.

    pip install torch transformers safetensors peft
    WELORE_LLAMA_CPP=DIRECTORY python extract.py BINARY

- Of a model that differs by a low rank, and at full rank of any, PEFT adds the adapter to the base, and the
  logits are the tuned model's.
- Below that, what is left of each difference is what the binary says, and what the truncated singular value
  decomposition leaves.
- At full rank, a quantized model with its adapter has the logits of its source.
- llama.cpp adds the adapter to the quantized file, and measures what it measures on the merged model.

Prints a line for each check, and fails if one differs. Made with torch 2.15, transformers 5.24, peft 0.21.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
# Scripts here have the names of libraries.
sys.path = [place for place in sys.path if Path(place).resolve() != HERE]
STORY = FIXTURES / "story.txt"
LENGTH, WINDOWS = 64, 6
MOST = 1e-4


def skip(why):
    print(f"SKIPPED: extract: {why}")
    sys.exit(0)


try:
    import torch
    import transformers
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
except ImportError as error:
    skip(f"{error.name or error} is not installed")

FAILED = []


def report(what, difference, most=MOST):
    """Prints a check, which must not differ by more than `most`."""
    good = difference <= most
    print(f"{what}: differs by {difference:.1e}{'' if good else ', TOO MUCH'}", flush=True)
    if not good:
        FAILED.append(what)


class Binary:
    def __init__(self, path):
        self.path = shutil.which(path) or sys.exit(f"no binary {path}")

    def run(self, *words):
        done = subprocess.run([self.path, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def json(self, *words):
        return json.loads(self.run(*words, "--json"))


def load(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model):
    """The logits of some tokens; any will do."""
    rows = torch.arange(4 * LENGTH).remainder(300).view(4, LENGTH)
    with torch.no_grad():
        return model(input_ids=rows, use_cache=False).logits


def furthest(one, other):
    return (one - other).abs().max().item()


def matrices(model):
    """The projections of all layers, by name."""
    found = model.model.layers.named_modules()
    return {f"model.layers.{name}": module.weight for name, module in found
            if isinstance(module, torch.nn.Linear)}


def tuned(base, folder, rank):
    """A model whose projections differ by matrices of this rank, or by any if that is 0."""
    torch.manual_seed(rank)
    model = load(base)
    with torch.no_grad():
        for weight in matrices(model).values():
            rows, columns = weight.shape
            if rank:
                change = torch.randn(rows, rank) @ torch.randn(rank, columns)
            else:
                change = torch.randn(rows, columns)
            weight += 0.3 * weight.norm() * change / change.norm()
    model.save_pretrained(folder)
    shutil.copy(base / "tokenizer.json", folder)
    return model


def extracted(binary, base, home):
    plain = logits(load(base))
    for rank, asked in [(4, ["--rank", 4]), (4, ["--err", "1%"]), (0, ["--rank", 64])]:
        what = f"difference of {f'rank {rank}' if rank else 'full rank'}, {' '.join(map(str, asked))}"
        folder, adapter = home / f"tuned-{rank}", home / "adapter"
        theirs = logits(tuned(base, folder, rank))
        if furthest(plain, theirs) < 1e-2:
            sys.exit("nothing was tuned")
        told = binary.json("extract", folder, "--base", base, *asked, "-o", adapter, "--force")
        ours = logits(PeftModel.from_pretrained(load(base), adapter).eval())
        report(f"{what}: logits of the tuned model", furthest(ours, theirs))
        report(f"{what}: nothing is left", told["relative_error"], 1e-4)


def truncated(binary, base, home):
    """The error at a rank is that of the truncated decomposition."""
    folder, adapter = home / "tuned-0", home / "few"
    told = binary.json("extract", folder, "--base", base, "--rank", 8, "-o", adapter)
    one, other = matrices(load(base)), matrices(load(folder))
    parts = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    said, best = [], []
    for matrix in told["matrices"]:
        name = matrix["name"]
        change = (other[name].double() - one[name].double()).detach()
        a, b = (parts[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "AB")
        left = (change - config["lora_alpha"] / a.shape[0] * b @ a).norm() / change.norm()
        values = torch.linalg.svdvals(change)
        least = values[8:].norm() / values.norm()
        said.append(abs(left.item() - matrix["relative_error"]))
        best.append(abs(left.item() - least.item()))
    # NaN stays NaN here, other than with `max`.
    for what, found in (("is left of each difference, as it is said", said), ("the truncated decomposition leaves", best)):
        report(f"rank 8: what {what}", torch.tensor(found).max().item(), 1e-5)
    report("rank 8: matrices", float(len(told["matrices"]) != len(one)), 0.0)


def repaired(binary, base, home):
    """A quantized model with an adapter of full rank is its source, but for the embedding."""
    seen, small, wide = home / "seen", home / "small.gguf", home / "wide"
    binary.run("calibrate", base, "--text", STORY, "--calibration-seq-len", 64, "--calibration-windows",
               8, "--gradient-windows", 8, "-o", seen)
    binary.run("compress", base, "--for", "llama.cpp", "--calibration", seen, "--types", "q4_0",
               "--max-bytes", 400_000, "--no-measure", "-o", small)
    binary.run("export", small, "--dtype", "f32", "-o", wide)
    theirs, source = logits(load(base)), load(base)
    for what, options in [("without calibration", []), ("calibrated", ["--calibration", seen])]:
        adapter = home / "whole"
        binary.run("repair", small, "--source", base, "--rank", 64, "-o", adapter, "--force", *options)
        model = load(wide)
        before = furthest(logits(model), theirs)
        model.load_state_dict({"model.embed_tokens.weight": source.model.embed_tokens.weight},
                              strict=False)
        after = furthest(logits(PeftModel.from_pretrained(model, adapter).eval()), theirs)
        if before < 1e-2:
            sys.exit("nothing was quantized")
        report(f"repaired at full rank, {what}: logits of the source", after)
    few = ["repair", small, "--source", base, "--calibration", seen, "--rank", 8, "--text", STORY,
           "--seq-len", LENGTH, "--windows", WINDOWS]
    told = binary.json(*few, "-o", home / "repair", "--gguf", home / "repair.gguf")
    before, after = (told["divergence"][at]["kl"]["value"] for at in ("before", "after"))
    print(f"repaired at rank 8: KL divergence {before:.6f} -> {after:.6f}")
    report("repaired at rank 8: is nearer", float(after >= before), 0.0)
    return small, wide


def in_llama_cpp(binary, program, small, wide, home):
    def measured(file, *options):
        line = [program, "-m", file, "-f", STORY, "-c", str(LENGTH), "--chunks", str(WINDOWS), "-t", "1",
                "-ngl", "0", *map(str, options)]
        # On a busy machine it sometimes ends before its last lines are written.
        for _ in range(10):
            done = subprocess.run(line, capture_output=True, text=True)
            found = re.search(r"Final estimate: PPL = ([0-9.]+) ", done.stdout + done.stderr)
            if found:
                return float(found[1])
            if done.returncode != 0:
                break
        sys.exit(f"llama-perplexity ends with {done.returncode}: {done.stderr[-2000:]}")

    lora, base, merged = home / "repair.gguf", home / "wide.gguf", home / "merged.gguf"
    binary.run("export", wide, "--gguf", base, "--dtype", "f32")
    binary.run("export", wide, "--adapter", home / "repair", "--dense", "-o", home / "merged")
    binary.run("export", home / "merged", "--gguf", merged, "--dtype", "f32")
    expected = measured(merged)
    for what, file, most in [
        ("numbers of the quantized model", base, 0.1),
        # Products with blocks round their inputs to 8 bits.
        ("the quantized file", small, 0.5),
    ]:
        without, added = (abs(measured(file, *options) / expected - 1) for options in ([], ["--lora", lora]))
        if without < 2e-3:
            sys.exit(f"llama.cpp, {what}: the adapter makes too little difference, {without:.1e}")
        report(f"llama.cpp, {what} and the adapter: perplexity of the merged one, beside {without:.1e} without it",
               added / without, most)


def main():
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary = Binary(sys.argv[1])
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        base = home / "base"
        # All numbers in f32, so that nothing but adapters makes a difference.
        load(FIXTURES / "tiny-llama").save_pretrained(base)
        shutil.copy(FIXTURES / "tiny-llama" / "tokenizer.json", base)
        extracted(binary, base, home)
        truncated(binary, base, home)
        # Of the model that was trained on the text, blocks of 4 bits change next to nothing.
        small, wide = repaired(binary, home / "tuned-0", home)
        tools = os.environ.get("WELORE_LLAMA_CPP")
        program = tools and shutil.which("llama-perplexity", path=tools)
        if program:
            in_llama_cpp(binary, program, small, wide, home)
        else:
            print("SKIPPED: extract: no llama-perplexity in $WELORE_LLAMA_CPP")
    if FAILED:
        sys.exit(f"{len(FAILED)} checks failed")


if __name__ == "__main__":
    main()
