#!/usr/bin/env python3
"""What lm-eval says of questions with choices, and what `eval --choices` says.

    tests/interop/lm_eval.py BINARY [COMMONSENSEQA]

The tasks are lm-eval's own files, with local questions in place of a download. The log-likelihood of
every choice has to be the same within 1e-4, and so have acc, acc_norm and their standard errors.
By default the model is tiny-llama, with a tokenizer that adds nothing and one that adds a BOS token.
COMMONSENSEQA is CommonsenseQA's dev_rand_split.jsonl, also $WELORE_COMMONSENSEQA; with it and the
directory of SmolLM2 in $WELORE_SMOLLM2, its first 100 questions are asked too ($WELORE_QUESTIONS
says another number).

Needs lm-eval 0.4, transformers and torch; without them it says so and checks nothing.
"""

import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))

import checks  # noqa: E402

checks.need("torch", "transformers", "lm_eval", "accelerate", "datasets", "yaml")

import tiny  # noqa: E402
from checks import FIXTURES, WORK  # noqa: E402

CLOSE = 1e-4
SAME = 1e-9

ARC = [
    ("Where does Mia put the red ball?", ["in the box", "under the old tree", "home"], 1),
    ("What did the dog find", ["a café", "sun", "the small red ball that Mia lost"], 2),
    ("The sun is", ["warm", "a tree"], 0),
    ("Who sat by the tree?\n", ["Mia", "Ben", "the dog", "nobody at all"], 0),
    ("Which is   right?", ["one  two", "...", "3", "Ω"], 3),
    # Longer than the context of tiny-llama, so that its beginning is cut off.
    ("Mia has a red ball and a small dog. " * 60 + "Who has it?", ["Mia", "the small dog"], 0),
]
COMMONSENSE = [
    (" Where would you find a ball? ", ["box", "sea", "tree", "dog", "sky"], "A"),
    ("What do people aim to do at work?", ["finish", "run", "hats", "sit", "talk to each"], "E"),
    ("Where is the sun", ["up", "down", "left", "in the box", "there"], "B"),
    ("Who sleeps?", ["the cat", "a stone", "Mia", "the wind", "a word"], "C"),
]
BOOLQ = [
    ("is the ball red", "Ball", "Mia has a red ball. It is small.", True),
    ("does the dog sleep", "Dog", "The dog runs to the tree.", False),
    ("is it warm in the sun", "Sun", "The sun is warm, and Mia sits in it all day.", True),
]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(texts):
    return {"label": list("ABCDEFGH"[: len(texts)]), "text": texts}


def tiny_questions(at):
    """For each task: its name here, lm-eval's file, our questions, and lm-eval's."""
    arc = [
        {"question": question, "choices": labelled(texts), "answerKey": "ABCD"[right]}
        for question, texts, right in ARC
    ]
    ours = [
        {"question": question, "choices": texts, "answer": right} for question, texts, right in ARC
    ]
    yield "jsonl", "arc/arc_easy.yaml", lines(at / "arc-ours", ours), lines(at / "arc", arc)
    published = [
        {
            "answerKey": key,
            "question": {
                "stem": question,
                "choices": [
                    {"label": label, "text": text} for label, text in zip("ABCDE", texts)
                ],
            },
        }
        for question, texts, key in COMMONSENSE
    ]
    file = lines(at / "commonsense-ours", published)
    yield "commonsenseqa", *commonsense(at, file, None)
    ours = [
        {"question": question, "title": title, "passage": passage, "answer": answer}
        for question, title, passage, answer in BOOLQ
    ]
    theirs = [
        {"question": question, "passage": f"{title} -- {passage}", "label": int(answer)}
        for question, title, passage, answer in BOOLQ
    ]
    file = "super_glue/boolq/default.yaml"
    yield "boolq", file, lines(at / "boolq-ours", ours), lines(at / "boolq", theirs)


def commonsense(at, path, most):
    """CommonsenseQA as it is published, and as lm-eval downloads it."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()][:most]
    theirs = [
        {
            "question": row["question"]["stem"],
            "choices": {
                name: [choice[name] for choice in row["question"]["choices"]]
                for name in ("label", "text")
            },
            "answerKey": row["answerKey"],
        }
        for row in rows
    ]
    file = "commonsense_qa/default.yaml"
    return file, path, lines(at / f"{path.name}-theirs", theirs)


def tiny_models(at):
    """tiny-llama with two tokenizers."""
    special = "<|endoftext|>"
    for name, adds in [("plain", False), ("with-bos", True)]:
        model = at / name
        shutil.copytree(FIXTURES / "tiny-llama", model)
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        if adds:
            tokenizer["post_processor"] = tiny.begun_by(special, 0)
        tiny.write(model, tokenizer, special, special)
        yield model


def ours(welore, model, task, path, most):
    limit = [] if most is None else ["--limit", most]
    found = welore.json("eval", model, "--choices", task, "--data", path, "--backend", "flex", *limit)
    return {
        "acc": (found["acc"]["value"], found["acc"]["standard_error"]),
        "acc_norm": (found["acc_norm"]["value"], found["acc_norm"]["standard_error"]),
        "log_likelihoods": [answer["log_likelihoods"] for answer in found["answers"]],
    }


def theirs(language_model, file, path, at):
    """lm-eval's figures, by its own task with local questions."""
    import lm_eval
    import yaml
    from datasets import disable_progress_bars
    from lm_eval import simple_evaluate

    disable_progress_bars()
    task = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / file).read_text())
    name = f"local_{task['task']}"
    for field in ("tag", "dataset_name", "training_split", "validation_split"):
        task.pop(field, None)
    task |= {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(at / "cache")},
        "test_split": "test",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True}
            for metric in ("acc", "acc_norm")
        ],
    }
    found = simple_evaluate(model=language_model, tasks=[task], log_samples=True, verbosity="ERROR")
    figures = found["results"][name]
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return {
        "acc": (figures["acc,none"], figures["acc_stderr,none"]),
        "acc_norm": (figures["acc_norm,none"], figures["acc_norm_stderr,none"]),
        "log_likelihoods": [
            [float(resp[0]) for resp in sample["filtered_resps"]] for sample in samples
        ],
    }


def differences(found, expected):
    ours, theirs = found["log_likelihoods"], expected["log_likelihoods"]
    if [len(sums) for sums in ours] != [len(sums) for sums in theirs]:
        yield "other numbers of questions or choices"
        return
    for number, (mine, other) in enumerate(zip(ours, theirs), 1):
        for choice, (a, b) in enumerate(zip(mine, other), 1):
            if not abs(a - b) <= CLOSE:
                yield f"question {number}, choice {choice}: {a}, lm-eval {b}"
    for figure in ("acc", "acc_norm"):
        for a, b in zip(found[figure], expected[figure]):
            if not abs(a - b) <= SAME:
                yield f"{figure}: {found[figure]}, lm-eval {expected[figure]}"
                break


def compare(welore, model, questions, most, at):
    """Checks that both say the same about all questions."""
    from lm_eval.models.huggingface import HFLM

    language_model = HFLM(
        pretrained=str(model), dtype="float32", device="cpu", batch_size=1, trust_remote_code=False
    )
    for task, file, our_path, their_path in questions:
        expected = theirs(language_model, file, their_path, at)
        found = ours(welore, model, task, our_path, most)
        wrong = list(differences(found, expected))
        count = len(expected["log_likelihoods"])
        (acc, error), (norm, norm_error) = expected["acc"], expected["acc_norm"]
        checks.check(
            count > 0 and not wrong,
            f"{model.name}, {task}, {count} questions",
            f"acc {acc:.4f} ± {error:.4f}, acc_norm {norm:.4f} ± {norm_error:.4f}",
        )
        for line in wrong[:10]:
            print(f"  {line}", flush=True)


def main(welore, data=None):
    data, large = data or os.environ.get("WELORE_COMMONSENSEQA"), os.environ.get("WELORE_SMOLLM2")
    questions = list(tiny_questions(WORK))
    for model in tiny_models(WORK):
        compare(welore, model, questions, None, WORK)
    if not (data and large):
        checks.skipped("SmolLM2 is not asked: no model in $WELORE_SMOLLM2, or no CommonsenseQA in $WELORE_COMMONSENSEQA")
        return
    most = int(os.environ.get("WELORE_QUESTIONS", "100"))
    questions = [("commonsenseqa", *commonsense(WORK, Path(data), most))]
    compare(welore, Path(large), questions, most, WORK)


if __name__ == "__main__":
    checks.run(main, __doc__, most=1)
