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
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))

import checks  # noqa: E402

checks.need("torch", "transformers", "peft", "safetensors")

import models  # noqa: E402
import torch  # noqa: E402
from checks import FIXTURES, STORY, near  # noqa: E402
from models import VERSIONS, furthest, load, relative  # noqa: E402
from peft import PeftModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

LENGTH, WINDOWS = 64, 6


def logits(model):
    """The logits of some tokens; any will do."""
    return models.logits(model, torch.arange(4 * LENGTH).remainder(300).view(4, LENGTH))


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


def extracted(welore, base, home):
    plain = logits(load(base))
    for rank, asked in [(4, ["--rank", 4]), (4, ["--err", "1%"]), (0, ["--rank", 64])]:
        what = f"difference of {f'rank {rank}' if rank else 'full rank'}, {' '.join(map(str, asked))}"
        folder, adapter = home / f"tuned-{rank}", home / "adapter"
        theirs = logits(tuned(base, folder, rank))
        told = welore.json("extract", folder, "--base", base, *asked, "-o", adapter, "--force")
        ours = logits(PeftModel.from_pretrained(load(base), adapter).eval())
        near(f"{what}: logits of the tuned model", furthest(ours, theirs), without=furthest(plain, theirs))
        near(f"{what}: nothing is left", told["relative_error"])


def truncated(welore, base, home):
    """The error at a rank is that of the truncated decomposition."""
    folder, adapter = home / "tuned-0", home / "few"
    told = welore.json("extract", folder, "--base", base, "--rank", 8, "-o", adapter)
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
        near(f"rank 8: what {what}", torch.tensor(found).max().item(), 1e-5)
    checks.check(len(told["matrices"]) == len(one), "rank 8: every matrix is told of", f"{len(one)} matrices")


def repaired(welore, base, home):
    """A quantized model with an adapter of full rank is its source, but for the embedding."""
    seen, small, wide = home / "seen", home / "small.gguf", home / "wide"
    welore.run("calibrate", base, "--text", STORY, "--calibration-seq-len", 64, "--calibration-windows",
               8, "--gradient-windows", 8, "-o", seen)
    welore.run("compress", base, "--for", "llama.cpp", "--calibration", seen, "--types", "q4_0",
               "--max-bytes", 400_000, "--no-measure", "-o", small)
    welore.run("export", small, "--dtype", "f32", "-o", wide)
    source = load(base)
    theirs = logits(source)
    for what, options in [("without calibration", []), ("calibrated", ["--calibration", seen])]:
        adapter = home / "whole"
        welore.run("repair", small, "--source", base, "--rank", 64, "-o", adapter, "--force", *options)
        model = load(wide)
        model.load_state_dict({"model.embed_tokens.weight": source.model.embed_tokens.weight},
                              strict=False)
        before = furthest(logits(model), theirs)
        after = furthest(logits(PeftModel.from_pretrained(model, adapter).eval()), theirs)
        near(f"repaired at full rank, {what}: logits of the source", after, without=before)
    few = ["repair", small, "--source", base, "--calibration", seen, "--rank", 8, "--text", STORY,
           "--seq-len", LENGTH, "--windows", WINDOWS]
    told = welore.json(*few, "-o", home / "repair", "--gguf", home / "repair.gguf")
    before, after = (told["divergence"][at]["kl"]["value"] for at in ("before", "after"))
    checks.check(after < before, "repaired at rank 8: is nearer", f"KL divergence {before:.6f} -> {after:.6f}")
    return small, wide


def in_llama_cpp(welore, program, small, wide, home):
    def measured(file, *options):
        return checks.perplexity_in_llama_cpp(program, file, LENGTH, WINDOWS, *options)

    lora, base, merged = home / "repair.gguf", home / "wide.gguf", home / "merged.gguf"
    welore.run("export", wide, "--gguf", base, "--dtype", "f32")
    welore.run("export", wide, "--adapter", home / "repair", "--dense", "-o", home / "merged")
    welore.run("export", home / "merged", "--gguf", merged, "--dtype", "f32")
    expected = measured(merged)
    for what, file, most in [
        ("numbers of the quantized model", base, 0.1),
        # Products with blocks round their inputs to 8 bits.
        ("the quantized file", small, 0.5),
    ]:
        without, added = (relative(measured(file, *options), expected) for options in ([], ["--lora", lora]))
        checks.check(without >= 2e-3 and added <= most * without,
                     f"llama.cpp, {what} and the adapter: perplexity of the merged one",
                     f"differs by {added:.1e}, beside {without:.1e} without it")


def main(welore):
    print(VERSIONS)
    torch.set_num_threads(1)
    home = checks.WORK
    base = home / "base"
    # All numbers in f32, so that nothing but adapters makes a difference.
    load(FIXTURES / "tiny-llama").save_pretrained(base)
    shutil.copy(FIXTURES / "tiny-llama" / "tokenizer.json", base)
    extracted(welore, base, home)
    truncated(welore, base, home)
    # Of the model that was trained on the text, blocks of 4 bits change next to nothing.
    small, wide = repaired(welore, home / "tuned-0", home)
    if program := checks.llama_cpp("llama-perplexity"):
        in_llama_cpp(welore, program, small, wide, home)


if __name__ == "__main__":
    checks.run(main, __doc__)
