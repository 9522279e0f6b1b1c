"""Compares LoRA adapters of a binary with the PEFT library, and with llama.cpp where it is.

    pip install torch transformers safetensors tokenizers peft
    WELORE_LLAMA_CPP=DIRECTORY python peft.py BINARY

- The binary trains an adapter, and PEFT adds it to the base: the logits are those of the merged model.
- PEFT makes adapters of several ranks and scales: `eval --adapter` measures, on a dense model and on a
  compressed one, what transformers does with PEFT, and `export --adapter` writes the same model.
- llama.cpp adds what `export --gguf-lora` wrote to the base, and measures what it measures on the merged model.
- What PEFT computes otherwise is refused.

Prints a line for each check, and fails if one differs. Made with torch 2.15, transformers 5.24, peft 0.21.
"""

import json
import math
import os
import re
import shutil
import string
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
    print(f"SKIPPED: peft: {why}")
    sys.exit(0)


try:
    import torch
    import transformers
    from peft import LoraConfig, PeftModel, get_peft_model
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM
except ImportError as error:
    skip(f"{error.name or error} is not installed")

FAILED = []


def report(name, what, difference, most=MOST):
    """Prints a check, which must not differ by more than `most`."""
    good = difference <= most
    print(f"{name}: {what}: differs by {difference:.1e}{'' if good else ', TOO MUCH'}", flush=True)
    if not good:
        FAILED.append((name, what))


class Binary:
    def __init__(self, path):
        self.path = shutil.which(path) or sys.exit(f"no binary {path}")

    def run(self, *words):
        done = subprocess.run([self.path, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def refusal(self, *words):
        """The message of a command that has to refuse its input."""
        done = subprocess.run([self.path, *map(str, words)], capture_output=True, text=True)
        return done.stderr if done.returncode == 2 else f"(exit code {done.returncode})"

    def perplexity(self, folder, *options):
        told = self.run("eval", folder, "--text", STORY, "--seq-len", LENGTH, "--windows", WINDOWS,
                        "--dtype", "f32", "--json", *options)
        return json.loads(told)["perplexity"]


def letters():
    """A tokenizer of 64 tokens: letters and marks alone."""
    tokens = ["<|endoftext|>", *string.ascii_letters, *".,!?'\"-:;()"]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None,
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)}, "merges": [],
        },
    }


def blocks(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(STORY.read_text(), add_special_tokens=False).ids
    return torch.tensor(ids[:LENGTH * WINDOWS]).view(WINDOWS, LENGTH)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model, rows):
    with torch.no_grad():
        return model(input_ids=rows, use_cache=False).logits


def perplexity(model, rows):
    found = logits(model, rows)[:, :-1].double()
    loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), rows[:, 1:].flatten())
    return math.exp(loss.item())


def furthest(one, other):
    return (one - other).abs().max().item()


def relative(one, other):
    return abs(one / other - 1)


def trained(binary, name, base, home):
    """An adapter that the binary trains is the merged model for PEFT."""
    rows = blocks(base)
    run = home / "run"
    binary.run("train", base, "--trainable", "lora", "--lora-rank", 4, "--lora-alpha", 6, "--text",
               STORY, "-o", run, "--seq-len", 32, "--batch-size", 2, "--steps", 8, "--lr", "3e-3",
               "--warmup", 2)
    plain = logits(load(base), rows)
    adapted = logits(PeftModel.from_pretrained(load(base), run / "adapter").eval(), rows)
    merged = logits(load(run / "model"), rows)
    if furthest(plain, merged) < 1e-3:
        sys.exit(f"{name}: nothing was trained")
    report(name, "trained here, added by PEFT, logits of the merged model", furthest(adapted, merged))
    ours = binary.perplexity(base, "--adapter", run / "adapter")
    report(name, "trained here, read again, perplexity of the merged model",
           relative(ours, binary.perplexity(run / "model")))


def made_by_peft(base, folder, **options):
    """A random adapter of PEFT, as strong as the weights."""
    torch.manual_seed(1)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **options))
    for key, tensor in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(tensor, std=0.08)
    model.save_pretrained(folder)
    return model.eval()


def read(binary, name, base, home, targets, patterns):
    """Adapters that PEFT made are read as PEFT reads them."""
    rows, low = blocks(base), home / "low"
    binary.run("compress", base, "--err", 0.8, "-o", low)
    binary.run("export", low, "--dense", "-o", home / "low-dense")
    whole = PeftModel.from_pretrained
    for number, (what, options) in enumerate([
        ("one rank", dict(r=4, lora_alpha=8)),
        ("the root of ranks", dict(r=8, lora_alpha=4, use_rslora=True)),
        ("ranks and scales of patterns", dict(r=4, lora_alpha=6, **patterns)),
        ("some layers", dict(r=3, lora_alpha=6, layers_to_transform=[0])),
    ]):
        adapter, merged = home / f"adapter-{number}", home / f"merged-{number}"
        model = made_by_peft(base, adapter, target_modules=targets, **options)
        theirs, found = perplexity(model, rows), logits(model, rows)
        report(name, f"{what}, perplexity", relative(
            binary.perplexity(base, "--adapter", adapter), theirs))
        binary.run("export", base, "--adapter", adapter, "--dense", "-o", merged)
        report(name, f"{what}, logits of what is exported", furthest(logits(load(merged), rows), found))
        theirs = perplexity(whole(load(home / "low-dense"), adapter).eval(), rows)
        report(name, f"{what}, on the compressed model", relative(
            binary.perplexity(low, "--adapter", adapter), theirs), 2e-4)


def refused(binary, name, base, home, targets):
    """What is no sum, or of other matrices, is refused."""
    for what, told, options in [
        ("dora", "DoRA", dict(use_dora=True)),
        ("bias", "trains biases", dict(bias="all")),
        ("head", "replaces whole modules", dict(modules_to_save=["lm_head"])),
    ]:
        adapter = home / f"refused-{what}"
        made_by_peft(base, adapter, target_modules=targets, r=2, **options)
        message = binary.refusal("eval", base, "--text", STORY, "--adapter", adapter)
        report(name, f"{what} is refused", float(told not in message))


def in_llama_cpp(binary, program, base, home):
    """llama.cpp adds the adapter to the base, as it is in the merged model."""
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

    binary.run("export", base, "--gguf", home / "base.gguf", "--dtype", "f32")
    plain = measured(home / "base.gguf")
    for number in (0, 2):
        merged, lora = home / f"merged-{number}.gguf", home / f"lora-{number}.gguf"
        binary.run("export", home / f"merged-{number}", "--gguf", merged, "--dtype", "f32")
        binary.run("export", base, "--adapter", home / f"adapter-{number}", "--gguf-lora", lora)
        theirs = measured(home / "base.gguf", "--lora", lora)
        if relative(theirs, plain) < 1e-2:
            sys.exit("llama.cpp does not add the adapter")
        report("llama.cpp", f"adapter {number} added to the base, perplexity of the merged model",
               relative(theirs, measured(merged)), 1e-3)


def main():
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary = Binary(sys.argv[1])
    llama = {
        "rank_pattern": {"down_proj": 2, r"^model\.layers\.1\..*\.q_proj": 6},
        "alpha_pattern": {"o_proj": 16, r"layers.\d+.mlp.up_proj": 3},
    }
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    gpt2 = {"rank_pattern": {"mlp.c_proj": 2}, "alpha_pattern": {r"h\.0\.attn\.c_attn": 16}}
    for name, targets, patterns in [
        ("tiny-llama", every, llama),
        ("tiny-gpt2", ["c_attn", "c_proj", "c_fc"], gpt2),
    ]:
        with tempfile.TemporaryDirectory() as home:
            home = Path(home)
            base = home / "base"
            shutil.copytree(FIXTURES / name, home / "stored")
            if not (home / "stored/tokenizer.json").exists():
                (home / "stored/tokenizer.json").write_text(json.dumps(letters()))
            # All numbers in f32, so that nothing but the adapter makes a difference.
            load(home / "stored").save_pretrained(base)
            shutil.copy(home / "stored/tokenizer.json", base)
            trained(binary, name, base, home)
            read(binary, name, base, home, targets, patterns)
            if name != "tiny-llama":
                continue
            refused(binary, name, base, home, targets)
            tools = os.environ.get("WELORE_LLAMA_CPP")
            program = tools and shutil.which("llama-perplexity", path=tools)
            if program:
                in_llama_cpp(binary, program, base, home)
            else:
                print("SKIPPED: peft: no llama-perplexity in $WELORE_LLAMA_CPP")
    if FAILED:
        sys.exit(f"{len(FAILED)} checks failed")


if __name__ == "__main__":
    main()
