"""What the program is given: a tiny model and everything that the program makes of it."""

import json
import shutil
import signal
import time
from pathlib import Path

import gguf

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"

MAKE = """
analyze in/model -o in/spectra.json
plan in/spectra.json --err 0.5 --min-ratio 0.2 -o in/plan.json
calibrate in/model --text in/story.txt --calibration-seq-len 32 --calibration-windows 4 --gradient-windows 2 --probe-windows 1 --too-little shrink -o in/calibration
compress in/model --calibration in/calibration --keep-params 0.6 -o in/pivot
compress in/model --plan in/plan.json -o in/low
"""
COMPARE = ("compare in/model --text in/story.txt --calibration in/calibration --keep-params 0.8 "
           "--methods svd,whitened --seq-len 32 --windows 2 --json")
TRAIN = ("train in/model --err 0.7 --text in/story.txt --seq-len 32 --batch-size 2 --warmup 1 "
         "--save-every 2 --lr 1e-3")
SETTINGS = """[compress]
err = 0.5
min-ratio = 0.25
shard-size = "20kB"
storage = "factors"
[train]
steps = 3
lr = 0.001
seq-len = 32
batch-size = 2
"""
TASKS = {
    "jsonl.jsonl": [{"prompt": f"Mia {n}", "response": "a"} for n in range(6)],
    "boolq.jsonl": [{"question": f"is it {n}", "title": "It", "answer": n % 2 == 0, "passage": "It is."} for n in range(6)],
    "svamp.json": [{"ID": str(n), "Body": f"Mia has {n}.", "Question": "How many?", "Equation": "2", "Answer": n / 2,
                    "Type": "Sum"} for n in range(6)],
    "coinflip.json": {"examples": [{"question": f"Heads {n}?", "answer": "Yes"} for n in range(6)]},
    "commonsenseqa.jsonl": [{"answerKey": "A", "id": "1", "question": {"stem": f"Where {n}?", "choices": [
        {"label": label, "text": "here"} for label in "ABCDE"]}} for n in range(6)],
    "docs.jsonl": [{"text": "Mia had a fox. " * 40}] * 8,
}


def make(program, case):
    """Makes `case` and all inputs in it. Returns what the commands printed that failed."""
    fresh(case)
    source = case / "in"
    for name in ("model", "sharded"):
        (source / name).mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copy(FIXTURES / "earlier" / "model" / name, source / "model")
    for path in (FIXTURES / "tiny-llama3").iterdir():
        shutil.copy(path, source / "sharded")
    shutil.copy(FIXTURES / "story.txt", source)
    (source / "settings.toml").write_text(SETTINGS)
    for name, rows in TASKS.items():
        lines = name.endswith(".jsonl")
        text = "\n".join(map(json.dumps, rows)) + "\n" if lines else json.dumps(rows)
        (source / name).write_text(text)
    (source / "model.gguf").write_bytes(gguf.write(*gguf.of_model(source / "model")))
    failures = []
    for line in MAKE.strip().splitlines():
        failures += failed(program.run(line.split()))
    compared = program.run(COMPARE.split())
    failures += failed(compared)
    (source / "compare.json").write_text(compared.out)
    failures += unfinished_run(program, case)
    for path in (case / "in").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(case / "cache", ignore_errors=True)
    (case / "cache").mkdir()
    return failures


def failed(outcome):
    if outcome.code == 0 and not outcome.problems:
        return []
    return [f"{' '.join(outcome.words)}: {outcome.kind()} {outcome.problems} {outcome.err[-500:]}"]


def unfinished_run(program, case):
    """A run with a checkpoint and steps left, in `in/run`; it is copied to `out/run` for use."""

    def stop(process):
        while not (case / "out/run/checkpoints").is_dir() or not any((case / "out/run/checkpoints").glob("step-*")):
            if process.returncode is not None:
                return []
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        return []

    for steps in (12, 40, 200):
        shutil.rmtree(case / "out/run", ignore_errors=True)
        line = (f"{TRAIN} --steps {steps} -o out/run --track-gradients 2 --eval-text in/story.txt "
                "--eval-every 4 --eval-windows 2")
        outcome = program.run(line.split(), stop)
        if outcome.code == 1 and not outcome.problems:
            shutil.copytree(case / "out/run", case / "in/run")
            shutil.rmtree(case / "out/run")
            return []
    return failed(outcome) or ["no run could be stopped"]


def fresh(case, inputs=None):
    """An empty case, or one with inputs."""
    if case.exists():
        shutil.rmtree(case)
    for name in ("home", "tmp", "cache", "hub", "out"):
        (case / name).mkdir(parents=True)
    if inputs:
        shutil.copytree(inputs, case / "in", symlinks=True)
