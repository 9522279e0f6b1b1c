"""Checks that transformers, welore and llama.cpp continue three prompts with the same tokens.

    pip install torch transformers safetensors
    WELORE_LLAMA_CPP=DIR python same_tokens.py WELORE_BINARY [MODEL]

MODEL is a dense directory; without it, `$WELORE_SMOLLM2`, or else a tiny model that was trained on stories. It is
compressed to factors of 90 % of the parameters. transformers runs that directory by its remote code, the binary runs it
itself, and llama.cpp (`llama-completion` in `$WELORE_LLAMA_CPP`) runs the dense GGUF file of it; all in f32, each time
with the most likely token. Tokens are compared with transformers, and the text with llama.cpp. Prints a line for each
prompt and program, and how far the most likely token was from the next; exits with 1 on a difference.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))

import checks  # noqa: E402

checks.need("torch", "transformers", "safetensors", "tokenizers")

import torch  # noqa: E402
from checks import WORK, check  # noqa: E402
from models import VERSIONS, load  # noqa: E402

PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n"]
COUNT = 24


def of_welore(welore, low):
    """Tokens of each prompt and of its continuation, and the text of the latter."""
    line = ["generate", low, "--max-new-tokens", COUNT, "--temperature", 0, "--dtype", "f32"]
    found = [welore.json(*line, "--prompt", prompt) for prompt in PROMPTS]
    return [(one["prompt_ids"], one["ids"], one["text"]) for one in found]


def of_transformers(low, prompts):
    model = load(low, trust_remote_code=True)
    factored = sum(type(part).__name__ == "LowRankLinear" for part in model.modules())
    check(factored > 0, f"transformers computes with {factored} factored matrices")
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
    return found


def without_end(ids, ends):
    return ids[:-1] if ids and ids[-1] in ends else ids


def of_llama_cpp(program, gguf, prompt, expected):
    """How llama.cpp continues a prompt."""
    line = [program, "-m", gguf, "-n", COUNT, "--temp", 0, "-no-cnv", "--no-display-prompt", "--simple-io", "--no-warmup"]
    line += ["-t", 1, "-c", 256, "-ctk", "f32", "-ctv", "f32", "-fa", "off", "-p", prompt]
    last = ""

    def read(out, _):
        nonlocal last
        last = out.replace("[end of text]", "").strip()
        # What is a beginning of the text can be all that it wrote in time.
        return last if last == expected or not expected.startswith(last) else None

    try:
        return checks.of_llama_cpp(read, *line)
    except checks.Broken as error:
        return last or str(error)


def main(welore, model=None):
    print(VERSIONS)
    model = model or os.environ.get("WELORE_SMOLLM2") or checks.FIXTURES / "tiny-llama"
    low, gguf = WORK / "low", WORK / "dense.gguf"
    welore.run("compress", model, "--keep-params", "0.9", "--no-calibration", "--storage", "factors", "-o", low)
    ours = of_welore(welore, low)
    theirs = of_transformers(low, [prompt for prompt, _, _ in ours])
    ends = json.loads((low / "config.json").read_text()).get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    for prompt, (_, ids, text), other in zip(PROMPTS, ours, theirs):
        # transformers ends with the token that ends a text.
        ids, other = without_end(ids, ends), without_end(other, ends)
        equal = ids == other
        check(equal and text.strip(), f"transformers, {prompt!r}", f"{text!r}" + ("" if equal else f" {ids} {other}"))
    program = checks.llama_cpp("llama-completion")
    if program is None:
        return
    welore.run("export", low, "--gguf", gguf, "--dtype", "f32")
    for prompt, (_, _, text) in zip(PROMPTS, ours):
        said = of_llama_cpp(program, gguf, prompt, text.strip())
        check(said == text.strip(), f"llama.cpp, {prompt!r}", f"{said!r}")


if __name__ == "__main__":
    checks.run(main, __doc__, most=1)
