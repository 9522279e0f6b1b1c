#!/usr/bin/env python3
"""Chat templates: welore's texts, tokens and masks against those of transformers.

    chat.py WELORE_BINARY

For each template in tests/fixtures/chat and each shape of conversation: `generate --chat` has the text and the tokens of
`apply_chat_template`, and where a template has `{% generation %}`, what `train` learns is what transformers marks.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))

import checks  # noqa: E402

checks.need("jinja2", "safetensors", "transformers")

import jinja2  # noqa: E402
import tiny  # noqa: E402
from checks import FIXTURES, WORK, check, same  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402
from transformers import __version__ as version  # noqa: E402

# Tokens of the templates, which take the places of the tokenizer's last ones.
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>",
           "<|end|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>"]

USER = "What is 2 + 2?"
ODD = "Say \"naïve\" <b>&amp; 'ü' 日本語 🙂 {{ bos_token }} <|im_end|> \\n"


def message(role, content):
    return {"role": role, "content": content}


THOUGHT = message("assistant", "<think>\nHm.\n</think>\n\nIt is\n4. ")

# The messages before the last one, which is the user's.
SHAPES = {
    "one": ([], USER, {}),
    "odd": ([], ODD, {}),
    "system": ([message("system", "Be brief.\nBe kind.")], USER, {}),
    "turns": ([message("user", ODD), THOUGHT, message("user", USER), message("assistant", "4")], ODD, {}),
    "option": ([], USER, {"enable_thinking": False}),
}


def make_model(folder, template):
    """tiny-llama with room for long texts, the special tokens and a template."""
    shutil.copytree(FIXTURES / "tiny-llama", folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["max_position_embeddings"] = 4096
    path.write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    model = tokenizer["model"]
    by_id = {number: token for token, number in model["vocab"].items()}
    first = len(by_id) - len(SPECIAL)
    gone = {by_id[number] for number in range(first, len(by_id))}
    model["vocab"] = {token: number for token, number in model["vocab"].items() if token not in gone}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    model["merges"] = [pair for pair in pairs if not gone & {*pair, "".join(pair)}]
    for number, token in enumerate(SPECIAL, first):
        model["vocab"][token] = number
        added = copy.deepcopy(tokenizer["added_tokens"][0])
        tokenizer["added_tokens"].append({**added, "id": number, "content": token})
    tiny.write(folder, tokenizer, "<s>", "</s>")
    shutil.copy(template, folder / "chat_template.jinja")


def check_prompts(welore, name, model, tokenizer):
    count = refused = 0
    for shape, (before, prompt, variables) in SHAPES.items():
        words = ["generate", model, "--chat", "--prompt", prompt, "--max-new-tokens", 0, "--json"]
        if before:
            (WORK / "before.json").write_text(json.dumps(before))
            words += ["--history", WORK / "before.json"]
        # Templates that ask for today's date get the same day.
        variables = {"date_string": "26 Jul 2024", **variables}
        for option, value in variables.items():
            words += ["--template-option", f"{option}={json.dumps(value)}"]
        done = welore.done(*words)
        messages = [*before, message("user", prompt)]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
        except jinja2.exceptions.TemplateError as error:
            refused += 1
            told = done.returncode == 2 and str(error) != "" and str(error) in done.stderr
            same(f"{name}, {shape}: refused with `{error}`", told or f"{done.returncode}: {done.stderr}", True)
            continue
        count += 1
        if not same(f"{name}, {shape}: exit code ({done.stderr.strip()})", done.returncode, 0):
            continue
        ours = json.loads(done.stdout)
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **variables)["input_ids"]
        same(f"{name}, {shape}: text", ours["rendered"], text)
        same(f"{name}, {shape}: tokens", ours["prompt_ids"], list(ids))
    check(count > 0, f"{name}: {count} texts and their tokens compared, {refused} conversations refused by both")


def check_mask(welore, name, model, tokenizer):
    before, _, _ = SHAPES["turns"]
    (WORK / "chats.jsonl").write_text(json.dumps({"messages": before}) + "\n")
    run_dir = WORK / f"run-{name}"
    welore.run("train", model, "--text", WORK / "chats.jsonl", "--trainable", "full", "--steps", 1, "--batch-size", 1,
               "--seq-len", 2048, "-o", run_dir)
    tensors = load_file(run_dir / "tokens")
    theirs = tokenizer.apply_chat_template(before, return_dict=True, return_assistant_tokens_mask=True)
    start, length, given = map(int, tensors["rows"][0])
    mask = [0] * given + [1] * (length - given)
    for _, begin, end in tensors.get("skipped", []):
        mask[int(begin):int(end)] = [0] * (int(end) - int(begin))
    # What follows the last answer is not in the row.
    rest = [0] * (len(theirs["input_ids"]) - length)
    same(f"{name}: tokens of the row", tensors["tokens"][start:start + length].tolist(), list(theirs["input_ids"])[:length])
    same(f"{name}: mask", mask + rest, list(theirs["assistant_masks"]))
    check(0 < sum(mask) < len(mask), f"{name}: the mask of {sum(mask)} tokens that are learnt compared")


def main(welore):
    print(f"transformers {version}")
    marked = 0
    for template in sorted((FIXTURES / "chat").glob("*.jinja")):
        name, model = template.stem, WORK / template.stem
        make_model(model, template)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
        check_prompts(welore, name, model, tokenizer)
        if "{% generation %}" in template.read_text(encoding="utf-8"):
            marked += 1
            check_mask(welore, name, model, tokenizer)
    check(marked > 0, f"{marked} templates mark what is learnt")


if __name__ == "__main__":
    checks.run(main, __doc__)
