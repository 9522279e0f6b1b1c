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
import shutil
import string
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))

import checks  # noqa: E402

checks.need("torch", "transformers", "peft", "tokenizers")

import tiny  # noqa: E402
import torch  # noqa: E402
from checks import FIXTURES, STORY, near  # noqa: E402
from models import VERSIONS, furthest, load, logits, relative  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

LENGTH, WINDOWS = 64, 6


def measured(welore, folder, *options):
    """The perplexity that `eval` says."""
    return welore.json("eval", folder, "--text", STORY, "--seq-len", LENGTH, "--windows", WINDOWS, "--dtype", "f32",
                       *options)["perplexity"]


def letters():
    """A tokenizer of 64 tokens: letters and marks alone."""
    tokens = ["<|endoftext|>", *string.ascii_letters, *".,!?'\"-:;()"]
    return tiny.characters(tokens, pre_tokenizer={"type": "WhitespaceSplit"})


def blocks(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(STORY.read_text(), add_special_tokens=False).ids
    return torch.tensor(ids[:LENGTH * WINDOWS]).view(WINDOWS, LENGTH)


def perplexity(model, rows):
    found = logits(model, rows)[:, :-1].double()
    loss = torch.nn.functional.cross_entropy(found.flatten(0, 1), rows[:, 1:].flatten())
    return math.exp(loss.item())


def trained(welore, name, base, home):
    """An adapter that the binary trains is the merged model for PEFT."""
    rows = blocks(base)
    run = home / "run"
    welore.run("train", base, "--trainable", "lora", "--lora-rank", 4, "--lora-alpha", 6, "--text",
               STORY, "-o", run, "--seq-len", 32, "--batch-size", 2, "--steps", 8, "--lr", "3e-3",
               "--warmup", 2)
    plain = logits(load(base), rows)
    adapted = logits(PeftModel.from_pretrained(load(base), run / "adapter").eval(), rows)
    merged = logits(load(run / "model"), rows)
    near(f"{name}: trained here, added by PEFT, logits of the merged model", furthest(adapted, merged),
         without=furthest(plain, merged))
    merged = measured(welore, run / "model")
    ours, plain = measured(welore, base, "--adapter", run / "adapter"), measured(welore, base)
    near(f"{name}: trained here, read again, perplexity of the merged model", relative(ours, merged),
         without=relative(plain, merged))


def made_by_peft(base, folder, **options):
    """A random adapter of PEFT, as strong as the weights."""
    torch.manual_seed(1)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **options))
    for key, tensor in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(tensor, std=0.08)
    model.save_pretrained(folder)
    return model.eval()


def read(welore, name, base, home, targets, patterns):
    """Adapters that PEFT made are read as PEFT reads them."""
    rows, low, dense = blocks(base), home / "low", home / "low-dense"
    welore.run("compress", base, "--err", 0.8, "-o", low)
    welore.run("export", low, "--dense", "-o", dense)
    plain, plain_low = load(base), perplexity(load(dense), rows)
    plain, plain_logits = perplexity(plain, rows), logits(plain, rows)
    for number, (what, options) in enumerate([
        ("one rank", dict(r=4, lora_alpha=8)),
        ("the root of ranks", dict(r=8, lora_alpha=4, use_rslora=True)),
        ("ranks and scales of patterns", dict(r=4, lora_alpha=6, **patterns)),
        ("some layers", dict(r=3, lora_alpha=6, layers_to_transform=[0])),
    ]):
        what = f"{name}: {what}"
        adapter, merged = home / f"adapter-{number}", home / f"merged-{number}"
        model = made_by_peft(base, adapter, target_modules=targets, **options)
        theirs, found = perplexity(model, rows), logits(model, rows)
        near(f"{what}, perplexity", relative(measured(welore, base, "--adapter", adapter), theirs),
             without=relative(plain, theirs))
        welore.run("export", base, "--adapter", adapter, "--dense", "-o", merged)
        near(f"{what}, logits of what is exported", furthest(logits(load(merged), rows), found),
             without=furthest(plain_logits, found))
        theirs = perplexity(PeftModel.from_pretrained(load(dense), adapter).eval(), rows)
        near(f"{what}, on the compressed model", relative(measured(welore, low, "--adapter", adapter), theirs), 2e-4,
             without=relative(plain_low, theirs))


def refused(welore, name, base, home, targets):
    """What is no sum, or of other matrices, is refused."""
    for what, told, options in [
        ("dora", "DoRA", dict(use_dora=True)),
        ("bias", "trains biases", dict(bias="all")),
        ("head", "replaces whole modules", dict(modules_to_save=["lm_head"])),
    ]:
        adapter = home / f"refused-{what}"
        made_by_peft(base, adapter, target_modules=targets, r=2, **options)
        said = welore.refusal("eval", base, "--text", STORY, "--adapter", adapter)
        checks.check(told in said, f"{name}: {what} is refused", "" if told in said else said)


def in_llama_cpp(welore, program, base, home):
    """llama.cpp adds the adapter to the base, as it is in the merged model."""
    def perplexity_of(file, *options):
        return checks.perplexity_in_llama_cpp(program, file, LENGTH, WINDOWS, *options)

    welore.run("export", base, "--gguf", home / "base.gguf", "--dtype", "f32")
    plain = perplexity_of(home / "base.gguf")
    for number in (0, 2):
        merged, lora = home / f"merged-{number}.gguf", home / f"lora-{number}.gguf"
        welore.run("export", home / f"merged-{number}", "--gguf", merged, "--dtype", "f32")
        welore.run("export", base, "--adapter", home / f"adapter-{number}", "--gguf-lora", lora)
        theirs, expected = perplexity_of(home / "base.gguf", "--lora", lora), perplexity_of(merged)
        near(f"llama.cpp: adapter {number} added to the base, perplexity of the merged model",
             relative(theirs, expected), 1e-3, without=relative(plain, expected))


def main(welore):
    print(VERSIONS)
    torch.set_num_threads(1)
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
        home = checks.WORK / name
        base, stored = home / "base", home / "stored"
        shutil.copytree(FIXTURES / name, stored)
        if not (stored / "tokenizer.json").exists():
            (stored / "tokenizer.json").write_text(json.dumps(letters()))
        # All numbers in f32, so that nothing but the adapter makes a difference.
        load(stored).save_pretrained(base)
        shutil.copy(stored / "tokenizer.json", base)
        trained(welore, name, base, home)
        read(welore, name, base, home, targets, patterns)
        if name == "tiny-llama":
            refused(welore, name, base, home, targets)
            if program := checks.llama_cpp("llama-perplexity"):
                in_llama_cpp(welore, program, base, home)


if __name__ == "__main__":
    checks.run(main, __doc__)
