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
import json
import math
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))

import checks  # noqa: E402

checks.need("torch", "transformers")

import tiny  # noqa: E402
import torch  # noqa: E402
from checks import FIXTURES, WORK, check  # noqa: E402
from models import VERSIONS, load  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

CLOSE = 1e-5
STORY = checks.STORY.read_text()[:2000]


def words():
    """A tokenizer of 64 tokens: the characters of the story that are most frequent."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    text = re.sub(r"\s+", " ", STORY)
    frequent = [character for character, _ in collections.Counter(text).most_common(64 - len(special))]
    return tiny.characters(frequent, special, post_processor=tiny.begun_by("<bos>", 1))


def model(fixture, name, tokenizer, token):
    """A copy of a fixture with this tokenizer."""
    place = WORK / name
    shutil.copytree(FIXTURES / fixture, place)
    tiny.write(place, tokenizer, token, token)
    return place


def evaluate(welore, place, text, *options):
    """What `eval` says."""
    file = WORK / "text.txt"
    file.write_text(text)
    return welore.json("eval", place, "--text", file, *options)


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


def compare(welore, place, adds):
    """All ways to cut the story, on one model."""
    network = load(place)
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
            found = evaluate(welore, place, STORY, "--bos", way, *options)
            error = abs(found["nll"] / total - 1)
            what = f"{place.name}, windows of {length} by {step}, --bos {way}: {found['perplexity']:.6f}"
            beside = f", {theirs:.6f} as the documentation counts" if theirs is not None and overlap else ""
            same = error < CLOSE and found["scored_tokens"] == count
            stated = found["bos"] == (way in ("on", "once") or (way == "auto" and adds))
            check(same and stated, f"{what} ({count} tokens, off by {error:.1e}){beside}")


def rolling(welore, place):
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
    network = load(place)
    scorer = HFLM(pretrained=network, tokenizer=tokenizer, max_length=length, batch_size=1, add_bos_token=False)
    request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
    (total,) = scorer.loglikelihood_rolling([request], disable_tqdm=True)
    found = evaluate(welore, place, text, "--bos", "once", "--seq-len", length + 1, "--stride", length)
    error = abs(found["nll"] / -total - 1)
    check(error < CLOSE, f"{place.name}: lm-eval's loglikelihood_rolling {total:.4f} (off by {error:.1e})")


def main(welore):
    print(VERSIONS)
    plain = json.loads((FIXTURES / "tiny-llama/tokenizer.json").read_text())
    token = "<|endoftext|>"
    adding = plain | {"post_processor": tiny.begun_by(token, 0)}
    places = [
        (model("tiny-llama", "llama", plain, token), False),
        (model("tiny-llama", "llama-bos", adding, token), True),
        (model("tiny-gemma", "gemma-bos", words(), "<bos>"), True),
    ]
    for place, adds in places:
        compare(welore, place, adds)
    why = checks.lacks("lm_eval", "accelerate")
    if why:
        checks.skipped(f"loglikelihood_rolling: {why}")
    else:
        rolling(welore, places[0][0])


if __name__ == "__main__":
    checks.run(main, __doc__)
