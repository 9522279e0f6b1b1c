"""Checks that transformers, welore and llama.cpp continue three prompts with the same tokens.

    pip install torch transformers safetensors
    WELORE_LLAMA_CPP=DIR python same_tokens.py WELORE_BINARY [MODEL]

MODEL is a dense directory; without it, `$WELORE_SMOLLM2`, or else a tiny model that was trained on stories. It is
compressed to factors of 90 % of the parameters. transformers runs that directory by its remote code, the binary runs it
itself, and llama.cpp (`llama-completion` in `$WELORE_LLAMA_CPP`) runs the dense GGUF file of it; all in f32, each time
with the most likely token. Tokens are compared with transformers, and the text with llama.cpp. Prints a line for each
prompt and program, and how far the most likely token was from the next; exits with 1 on a difference.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TINY = Path(__file__).resolve().parents[1] / "fixtures" / "tiny-llama"
PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n"]
COUNT = 24


def skip(why):
    print(f"SKIPPED: same_tokens: {why}")
    sys.exit(0)


# A file beside this one has the name of the package.
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def of_welore(binary, low):
    """Tokens of each prompt and of its continuation, and the text of the latter."""
    line = [binary, "generate", low, "--max-new-tokens", COUNT, "--temperature", 0, "--dtype", "f32", "--json"]
    found = [json.loads(run(*line, "--prompt", prompt)) for prompt in PROMPTS]
    return [(one["prompt_ids"], one["ids"], one["text"]) for one in found]


def of_transformers(low, prompts):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(low, trust_remote_code=True, dtype=torch.float32).eval()
    factored = sum(type(part).__name__ == "LowRankLinear" for part in model.modules())
    print(f"transformers computes with {factored} factored matrices")
    found, margins = [], []
    options = {"max_new_tokens": COUNT, "do_sample": False, "repetition_penalty": 1.0}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    for ids in prompts:
        ids = torch.tensor([ids])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        found.append(made.sequences[0, ids.shape[1] :].tolist())
        best = [scores[0].topk(2).values for scores in made.scores]
        margins += [(first - second).item() for first, second in best]
    print(f"the smallest difference of the two largest logits is {min(margins):.4f}")
    return found, factored


def without_end(ids, ends):
    return ids[:-1] if ids and ids[-1] in ends else ids


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    binary, model = sys.argv[1], (sys.argv[2:] + [os.environ.get("WELORE_SMOLLM2") or TINY])[0]
    for package in ("torch", "transformers", "safetensors", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            skip(f"Python has no package `{package}`")
    program = Path(os.environ.get("WELORE_LLAMA_CPP", "")) / "llama-completion"
    has_llama = "WELORE_LLAMA_CPP" in os.environ and program.is_file()
    if not has_llama:
        print("SKIPPED: same_tokens: llama.cpp: no `llama-completion` in $WELORE_LLAMA_CPP")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="welore-interop-") as scratch:
        os.environ |= {"HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        low, gguf = Path(scratch) / "low", Path(scratch) / "dense.gguf"
        run(binary, "compress", model, "--keep-params", "0.9", "--no-calibration", "--storage", "factors", "-o", low)
        ours = of_welore(binary, low)
        theirs, factored = of_transformers(low, [prompt for prompt, _, _ in ours])
        if not factored:
            failed += 1
            print("FAILED nothing is factored")
        ends = json.loads((low / "config.json").read_text()).get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends]
        for prompt, (_, ids, text), other in zip(PROMPTS, ours, theirs):
            # transformers ends with the token that ends a text.
            same = without_end(other, ends) == without_end(ids, ends)
            failed += not same
            print(f"{'ok    ' if same else 'FAILED'} transformers, {prompt!r}: {text!r}" + ("" if same else f" {ids} {other}"))
        if has_llama:
            run(binary, "export", low, "--gguf", gguf, "--dtype", "f32")
            for prompt, (_, _, text) in zip(PROMPTS, ours):
                line = [program, "-m", gguf, "-n", COUNT, "--temp", 0, "-no-cnv", "--no-display-prompt", "--simple-io", "--no-warmup"]
                line += ["-t", 1, "-c", 256, "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-p", prompt]
                # On a busy machine it sometimes ends before its last words are written.
                for _ in range(10):
                    said = run(*line).replace("[end of text]", "")
                    same = said.strip() == text.strip()
                    if same or not text.strip().startswith(said.strip()):
                        break
                failed += not same
                print(f"{'ok    ' if same else 'FAILED'} llama.cpp, {prompt!r}: {said.strip()!r}")
    print(f"{failed} failed" if failed else "all hold")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
