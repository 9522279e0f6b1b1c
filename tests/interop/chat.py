#!/usr/bin/env python3
"""Chat templates: welore's texts, tokens and masks against those of transformers.

    chat.py WELORE_BINARY

For each template in tests/fixtures/chat and each shape of conversation: `generate --chat` has the text and the tokens of
`apply_chat_template`, and where a template has `{% generation %}`, what `train` learns is what transformers marks.
"""

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

NAME = "chat"
HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
# Scripts here have the names of libraries.
sys.path = [place for place in sys.path if Path(place).resolve() != HERE]

try:
    import jinja2  # noqa: F401
    from safetensors.numpy import load_file
    from transformers import PreTrainedTokenizerFast
    from transformers import __version__ as version
except ImportError as error:
    print(f"SKIPPED: {NAME}: {error}")
    sys.exit(0)

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
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
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
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copy(template, folder / "chat_template.jinja")


def run(binary, *words):
    return subprocess.run([binary, *map(str, words)], capture_output=True, text=True, encoding="utf-8", check=False)


class Checks:
    def __init__(self):
        self.failed = 0

    def same(self, what, ours, theirs):
        if ours != theirs:
            self.failed += 1
            print(f"DIFFERENT: {what}:\n  welore       {ours!r}\n  transformers {theirs!r}")
        return ours == theirs


def check_prompts(binary, work, name, model, tokenizer, checks):
    count = refused = 0
    for shape, (before, prompt, variables) in SHAPES.items():
        words = ["generate", model, "--chat", "--prompt", prompt, "--max-new-tokens", 0, "--json"]
        if before:
            (work / "before.json").write_text(json.dumps(before))
            words += ["--history", work / "before.json"]
        # Templates that ask for today's date get the same day.
        variables = {"date_string": "26 Jul 2024", **variables}
        for option, value in variables.items():
            words += ["--template-option", f"{option}={json.dumps(value)}"]
        done = run(binary, *words)
        messages = [*before, message("user", prompt)]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **variables)
        except jinja2.exceptions.TemplateError as error:
            refused += 1
            checks.same(f"{name}, {shape}: refused with `{error}`", done.returncode == 2 and str(error) in done.stderr, True)
            continue
        count += 1
        if not checks.same(f"{name}, {shape}: exit code ({done.stderr.strip()})", done.returncode, 0):
            continue
        ours = json.loads(done.stdout)
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **variables)["input_ids"]
        checks.same(f"{name}, {shape}: text", ours["rendered"], text)
        checks.same(f"{name}, {shape}: tokens", ours["prompt_ids"], list(ids))
    print(f"{name}: {count} texts and their tokens compared, {refused} conversations refused by both")


def check_mask(binary, work, name, model, tokenizer, checks):
    before, _, _ = SHAPES["turns"]
    (work / "chats.jsonl").write_text(json.dumps({"messages": before}) + "\n")
    run_dir = work / f"run-{name}"
    done = run(binary, "train", model, "--text", work / "chats.jsonl", "--trainable", "full", "--steps", 1, "--batch-size", 1,
               "--seq-len", 2048, "-o", run_dir)
    if not checks.same(f"{name}: training ({done.stderr.strip()})", done.returncode, 0):
        return
    tensors = load_file(run_dir / "tokens")
    # Texts to learn from have the same date on every day.
    day = lambda form: datetime(2024, 7, 26).strftime(form)  # noqa: E731
    theirs = tokenizer.apply_chat_template(before, return_dict=True, return_assistant_tokens_mask=True, strftime_now=day)
    start, length, given = map(int, tensors["rows"][0])
    mask = [0] * given + [1] * (length - given)
    for _, begin, end in tensors.get("skipped", []):
        mask[int(begin):int(end)] = [0] * (int(end) - int(begin))
    # What follows the last answer is not in the row.
    rest = [0] * (len(theirs["input_ids"]) - length)
    checks.same(f"{name}: tokens of the row", tensors["tokens"][start:start + length].tolist(), list(theirs["input_ids"])[:length])
    checks.same(f"{name}: mask", mask + rest, list(theirs["assistant_masks"]))
    print(f"{name}: the mask of {sum(mask)} tokens that are learnt compared")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary, checks = sys.argv[1], Checks()
    print(f"{NAME}: transformers {version}")
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        for template in sorted((FIXTURES / "chat").glob("*.jinja")):
            name, model = template.stem, work / template.stem
            make_model(model, template)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
            check_prompts(binary, work, name, model, tokenizer, checks)
            if "{% generation %}" in template.read_text(encoding="utf-8"):
                check_mask(binary, work, name, model, tokenizer, checks)
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
