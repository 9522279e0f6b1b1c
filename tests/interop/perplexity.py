#!/usr/bin/env python3
"""What transformers computes of a text, window by window, and what `eval` says.

    tests/interop/perplexity.py BINARY

Windows follow each other or overlap (`--stride`), and each of them, the text, or nothing begins with the token that
begins texts (`--bos`). The negative log-likelihood has to be the same within 1e-5 of it, and the number of scored
tokens exactly. The loop over windows is that of transformers' documentation of perplexity, but that every token counts
the same: the documentation takes one token too few of each window after the first. Its own figure is shown beside.

The models are tiny-llama, with a tokenizer that puts nothing before a text and with one that puts a token there, and
tiny-gemma with another such tokenizer. Where lm-eval can be imported, its loglikelihood_rolling is compared as well.

Needs torch and transformers; without them it says so and checks nothing.
"""

import collections
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
CLOSE = 1e-5

# Files beside this one have the names of packages.
sys.path = [place for place in sys.path if Path(place or ".").resolve() != HERE]
if len(sys.argv) != 2:
    sys.exit("usage: perplexity.py BINARY")
for package in ("torch", "transformers"):
    if importlib.util.find_spec(package) is None:
        print(f"SKIPPED: perplexity: Python has no package `{package}`")
        sys.exit(0)
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
BINARY = str(Path(sys.argv[1]).resolve())
STORY = (FIXTURES / "story.txt").read_text()[:2000]
failures = 0


def check(holds, what):
    """Prints the line of a check."""
    global failures
    failures += not holds
    print(f"{'ok    ' if holds else 'FAILED'} {what}", flush=True)


def template(token, number):
    """What puts a token before a text."""
    special, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    known = {token: {"id": token, "ids": [number], "tokens": [token]}}
    pair = [special, text, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": [special, text], "pair": pair, "special_tokens": known}


def words():
    """A tokenizer of 64 tokens: the characters of the story that are most frequent."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    text = re.sub(r"\s+", " ", STORY)
    frequent = [character for character, _ in collections.Counter(text).most_common(64 - len(special))]
    names = special + frequent
    added = [
        {"id": number, "content": name, "special": True}
        | dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
        for number, name in enumerate(special)
    ]
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    model |= {"vocab": {name: number for number, name in enumerate(names)}, "merges": []}
    parts = dict.fromkeys(["truncation", "padding", "normalizer", "pre_tokenizer", "decoder"])
    return {"version": "1.0", "added_tokens": added, "post_processor": template("<bos>", 1), "model": model} | parts


def model(work, fixture, name, tokenizer, token):
    """A copy of a fixture with this tokenizer."""
    place = work / name
    shutil.copytree(FIXTURES / fixture, place)
    (place / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": token, "eos_token": token}
    (place / "tokenizer_config.json").write_text(json.dumps(config))
    return place


def evaluate(place, text, *options):
    """What `eval` says."""
    file = place.parent / "text.txt"
    file.write_text(text)
    line = [BINARY, "eval", str(place), "--text", str(file), "--json", *map(str, options)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(line)}: {done.stderr}")
    return json.loads(done.stdout)


@torch.no_grad()
def measured(network, window, fresh):
    """The mean loss of the last `fresh` tokens of a window, and how many of them are predicted."""
    inputs = torch.tensor([window])
    targets = inputs.clone()
    targets[:, : len(window) - fresh] = -100
    count = int((targets[:, 1:] != -100).sum())
    return network(inputs, labels=targets).loss.double().item(), count


def documented(network, ids, length, stride, overlap):
    """The loop of transformers' documentation: the sum of losses, the tokens, and its own perplexity."""
    total, count, theirs, of_theirs, last = 0.0, 0, 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        if end - begin < length and not overlap:
            break  # Windows that do not overlap leave out what does not fill one.
        loss, scored = measured(network, ids[begin:end], end - last)
        total, count = total + loss * scored, count + scored
        theirs, of_theirs, last = theirs + loss * (end - last - 1), of_theirs + end - last - 1, end
        if end == len(ids):
            break
    return total, count, math.exp(theirs / of_theirs)


def begun(network, text, bos, length, stride, overlap):
    """The same with a token at the start of every window, which has one token less of the text."""
    total, count, last, room = 0.0, 0, 0, length - 1
    for begin in range(0, len(text), stride):
        end = min(begin + room, len(text))
        if end - begin < room and not overlap:
            break
        loss, scored = measured(network, [bos, *text[begin:end]], end - last)
        total, count, last = total + loss * scored, count + scored, end
        if end == len(text):
            break
    return total, count, None


def compare(place, adds):
    """All ways to cut the story, on one model."""
    network = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    whole, text = tokenizer(STORY)["input_ids"], tokenizer(STORY, add_special_tokens=False)["input_ids"]
    check(whole == ([tokenizer.bos_token_id] if adds else []) + text, f"{place.name}: what the tokenizer adds")
    bos = tokenizer.bos_token_id
    for length, stride in [(64, None), (64, 64), (64, 24), (256, 128)]:
        step, overlap = stride or length, stride is not None and stride < length
        options = ["--seq-len", length] + ([] if stride is None else ["--stride", stride])
        each_step = step if overlap else length - 1
        references = {
            "off": documented(network, text, length, step, overlap),
            "once": documented(network, [bos, *text], length, step, overlap),
            "on": begun(network, text, bos, length, each_step, overlap),
        }
        references["auto"] = references["on" if adds else "off"]
        for way, (total, count, theirs) in references.items():
            if stride == length and way != "auto":
                continue  # Such a stride is none.
            found = evaluate(place, STORY, "--bos", way, *options)
            error = abs(found["nll"] / total - 1)
            what = f"{place.name}, windows of {length} by {step}, --bos {way}: {found['perplexity']:.6f}"
            beside = f", {theirs:.6f} as the documentation counts" if theirs is not None and overlap else ""
            same = error < CLOSE and found["scored_tokens"] == count
            stated = found["bos"] == (way in ("on", "once") or (way == "auto" and adds))
            check(same and stated, f"{what} ({count} tokens, off by {error:.1e}){beside}")


def rolling(place):
    """lm-eval's loglikelihood_rolling, whose windows share one token, after one that begins the text."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    length = 48
    tokenizer = AutoTokenizer.from_pretrained(place)
    ids = tokenizer(STORY, add_special_tokens=False)["input_ids"]
    # Its last window has more context than ours unless it is full.
    fits = (count for count in range(len(ids) // length, 0, -1))
    text = next(
        text
        for text in (tokenizer.decode(ids[: count * length]) for count in fits)
        if len(tokenizer(text, add_special_tokens=False)["input_ids"]) % length == 0
    )
    network = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    scorer = HFLM(pretrained=network, tokenizer=tokenizer, max_length=length, batch_size=1, add_bos_token=False)
    request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
    (total,) = scorer.loglikelihood_rolling([request], disable_tqdm=True)
    found = evaluate(place, text, "--bos", "once", "--seq-len", length + 1, "--stride", length)
    error = abs(found["nll"] / -total - 1)
    check(error < CLOSE, f"{place.name}: lm-eval's loglikelihood_rolling {total:.4f} (off by {error:.1e})")


def main():
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        plain = json.loads((FIXTURES / "tiny-llama/tokenizer.json").read_text())
        token = "<|endoftext|>"
        adding = plain | {"post_processor": template(token, 0)}
        places = [
            (model(work, "tiny-llama", "llama", plain, token), False),
            (model(work, "tiny-llama", "llama-bos", adding, token), True),
            (model(work, "tiny-gemma", "gemma-bos", words(), "<bos>"), True),
        ]
        for place, adds in places:
            compare(place, adds)
        try:
            import lm_eval  # noqa: F401
        except ImportError as error:
            print(f"lm-eval cannot be imported ({error}), so loglikelihood_rolling is not compared")
        else:
            rolling(places[0][0])
    sys.exit(1 if failures else 0)


main()
