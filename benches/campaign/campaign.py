"""Mutated inputs, kills, full disks and rival processes, against the binary. See README.md."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import gguf
import inputs
import mutations
from runner import SECONDS, Outcome, Program, litter, tree

SMALL = "--text in/story.txt --seq-len 32"
MODEL = [
    "inspect in/model", "analyze in/model -o out/spectra.json", "compress in/model --err 0.5 -o out/low",
    "compress in/model --calibration in/calibration --method sequential --keep-params 0.7 -o out/low",
    f"eval in/model {SMALL} --windows 2", "generate in/model --prompt Mia --max-new-tokens 3",
    f"train in/model --trainable full {SMALL} --batch-size 2 --steps 2 --warmup 0 -o out/run",
    f"train in/model --from-scratch {SMALL} --batch-size 2 --steps 1 --warmup 0 -o out/run",
    "calibrate in/model --text in/story.txt --calibration-seq-len 32 --calibration-windows 3 "
    "--gradient-windows 2 --too-little shrink -o out/calibration",
    "plan in/model --err 0.5 -o out/plan.json",
]
LOW = ["inspect in/{0}", "export in/{0} --dense -o out/dense", f"eval in/{{0}} {SMALL} --windows 2",
       f"train in/{{0}} {SMALL} --batch-size 2 --steps 2 --warmup 0 -o out/run",
       "generate in/{0} --prompt Mia --max-new-tokens 3", "report --plan in/{0} -o out/page.html"]
PIVOT, FACTORS = ([line.format(name) for line in LOW] for name in ("pivot", "low"))
PLAN = ["compress in/model --plan in/plan.json -o out/low", "report --plan in/plan.json -o out/page.html",
        f"train in/model --plan in/plan.json {SMALL} --batch-size 2 --steps 1 --warmup 0 -o out/run"]
CALIBRATED = ["plan in/model --calibration in/calibration --policy probed --keep-params 0.7 -o out/plan.json",
              "compress in/model --calibration in/calibration --method two-sided --keep-params 0.7 -o out/low",
              "compress in/model --calibration in/calibration --method sequential --refine 1 --keep-params 0.7 -o out/low"]
RESUME = ["train --resume out/run", "report --run out/run -o out/page.html"]
SHARDED = ["inspect in/sharded", "analyze in/sharded -o out/spectra.json", "compress in/sharded --err 0.5 -o out/low"]
GGUF = ["inspect in/model.gguf", "compress in/model.gguf --err 0.5 -o out/low",
        "generate in/model.gguf --prompt Mia --max-new-tokens 2"]
TEXTS = [f"eval in/model {SMALL} --windows 2", MODEL[8],
         f"train in/model --err 0.7 {SMALL} --batch-size 2 --steps 1 --warmup 0 -o out/run"]

# Files, how they are mutated, and which commands read them.
FORMATS = [
    ("in/model/config.json", mutations.json_file, MODEL),
    ("in/model/tokenizer.json", mutations.tokenizer, [MODEL[4], MODEL[5], MODEL[6], MODEL[8]]),
    ("in/model/model.safetensors", mutations.safetensors, MODEL),
    ("in/low/model.safetensors", mutations.safetensors, FACTORS),
    ("in/low/welore_plan.json", mutations.json_file, FACTORS),
    ("in/pivot/model.safetensors", mutations.safetensors, PIVOT),
    ("in/pivot/welore_plan.json", mutations.json_file, PIVOT),
    ("in/pivot/config.json", mutations.json_file, PIVOT),
    ("in/pivot/README.md", mutations.octets, [f"eval out/low {SMALL} --windows 2 --record", *PIVOT[1:4]]),
    ("in/sharded/config.json", mutations.json_file, SHARDED),
    ("in/sharded/model.safetensors.index.json", mutations.json_file, SHARDED),
    ("in/sharded/model-00002-of-00002.safetensors", mutations.safetensors, SHARDED),
    ("in/model.gguf", None, GGUF),
    ("in/plan.json", mutations.json_file, PLAN),
    ("in/spectra.json", mutations.json_file, ["plan in/spectra.json --err 0.5 -o out/plan.json",
                                              "report --spectra in/spectra.json -o out/page.html"]),
    ("in/calibration", mutations.safetensors, CALIBRATED),
    ("out/run/run.json", mutations.json_file, RESUME),
    ("out/run/checkpoints/last.json", mutations.json_file, RESUME),
    ("out/run/checkpoints/best.json", mutations.json_file, RESUME),
    ("out/run/metrics.jsonl", mutations.json_lines, RESUME),
    ("out/run/gradients.jsonl", mutations.json_lines, RESUME),
    ("out/run/tokens", mutations.octets, RESUME),
    ("out/run/checkpoints/step-*/trainable.bpk", mutations.octets, RESUME),
    ("out/run/checkpoints/step-*/optimizer.bpk", mutations.octets, RESUME),
    ("in/settings.toml", mutations.toml, ["compress in/model --config in/settings.toml -o out/low",
                                          "train in/model --err 0.7 --text in/story.txt --steps 2 --warmup 0 --config in/settings.toml -o out/run"]),
    *((f"in/{name}", mutations.json_lines if name.endswith("l") else mutations.json_file,
       [f"eval in/model --task {name.split('.')[0]} --data in/{name}",
        f"train in/model --err 0.7 --task {name.split('.')[0]} --data in/{name} --seq-len 64 --batch-size 1 "
        "--steps 1 --warmup 0 -o out/run"]) for name in inputs.TASKS if name != "docs.jsonl"),
    ("in/docs.jsonl", mutations.json_lines, [line.replace("story.txt", "docs.jsonl") for line in TEXTS]),
    ("in/story.txt", mutations.text, TEXTS),
    ("in/compare.json", mutations.json_file, ["report --compare in/compare.json -o out/page.html"]),
]

# Commands that write, by name.
TRAINED = f"{inputs.TRAIN} --steps 8 -o out/run"
WRITERS = {
    "analyze": "analyze in/model -o out/spectra.json",
    "calibrate": MODEL[8],
    "plan": "plan in/model --err 0.5 -o out/plan.json",
    "compress svd": "compress in/model --err 0.5 -o out/low",
    "compress shards": "compress in/model --err 0.5 --shard-size 10kB -o out/low",
    "compress force": "compress in/model --err 0.6 --force -o out/low",
    "compress whitened": "compress in/model --calibration in/calibration --method whitened --keep-params 0.7 -o out/low",
    "compress two-sided": "compress in/model --calibration in/calibration --method two-sided --keep-params 0.7 --storage factors -o out/low",
    "compress sequential": "compress in/model --calibration in/calibration --method sequential --keep-params 0.7 --shard-size 10kB -o out/low",
    "compress refined": "compress in/model --calibration in/calibration --method sequential --refine 1 --keep-params 0.7 -o out/low",
    "compress gguf": "compress in/model.gguf --err 0.5 -o out/low",
    "export": "export in/pivot --dense -o out/dense",
    "export shards": "export in/low --dense --shard-size 10kB -o out/dense",
    "train": TRAINED,
    "train full": f"{TRAINED} --trainable full --eval-text in/story.txt --eval-every 4 --eval-windows 2".replace("--err 0.7 ", ""),
    "train galore": f"{TRAINED} --trainable galore --galore-rank 2".replace("--err 0.7 ", ""),
    "train lora": f"{TRAINED} --trainable lora".replace("--err 0.7 ", ""),
    "resume": "train --resume out/run",
    "report": "report --spectra in/spectra.json --plan in/plan.json --compare in/compare.json --run in/run -o out/page.html",
    "demo": "demo -o out/demo",
}
RARE = {"demo": 0.01}
CALLS = ("?openat,?mkdir,?mkdirat,?rename,?renameat,?renameat2,?unlink,?unlinkat,?rmdir,?write,?pwrite64,"
         "?fsync,?fdatasync,?ftruncate,?fallocate,?flock,?linkat,?symlinkat,?copy_file_range")


class Campaign:
    def __init__(self, binary, work, keep):
        self.work, self.keep, self.case = work, keep, work / "case"
        self.program, self.inputs = Program(binary, self.case), work / "inputs"
        self.whole, self.runs, self.found = {}, Counter(), Counter()
        self.failed, self.first = 0, {}

    def set_up(self):
        failures = inputs.make(self.program, self.case)
        for failure in failures:
            print(f"cannot make the inputs: {failure}", file=sys.stderr)
        if failures:
            raise SystemExit(2)
        shutil.copytree(self.case / "in", self.inputs, symlinks=True)
        self.gguf = gguf.of_model(self.inputs / "model")
        # What is refused unmutated proves nothing.
        for line in sorted({line for _, _, lines in FORMATS for line in lines}):
            self.prepare("resume" if "out/run" in line and " -o out/run" not in line else "")
            if "out/low" in line and " -o out/low" not in line:
                shutil.copytree(self.inputs / "low", self.case / "out/low")
            if failure := inputs.failed(self.program.run(line.split())):
                print(f"fails without a mutation: {failure[0]}", file=sys.stderr)
                raise SystemExit(2)

    def run(self, area, line, **how):
        outcome = self.program.run(line.split(), **how)
        self.runs[area, outcome.kind()] += 1
        return outcome

    # Mutations.

    def mutate(self, rng, seed):
        inputs.fresh(self.case, self.inputs)
        pattern, mutator, lines = rng.choice(FORMATS)
        if pattern.startswith("out/run"):
            shutil.copytree(self.inputs / "run", self.case / "out/run")
        if pattern == "in/pivot/README.md":
            shutil.copytree(self.inputs / "low", self.case / "out/low")
            pattern = rng.choice([pattern, "out/low/README.md"])
        path = rng.choice(sorted(self.case.glob(pattern)) or [None])
        if path is None:
            return []
        if mutator:
            path.write_bytes(mutator(rng, path.read_bytes()))
        else:
            path.write_bytes(gguf.mutated(rng, *self.gguf))
        given, problems = tree(self.case / "in"), []
        for line in rng.sample(lines, min(2, len(lines))):
            before = tree(self.case / "out")
            outcome = self.run(f"mutated {path.name if 'step-' not in pattern else path.suffix}", line)
            problems += [(outcome, problem) for problem in outcome.problems]
            if tree(self.case / "in") != given:
                problems.append((outcome, "inputs: changed"))
            # After an error in the middle, finished matrices stay, and the command says so.
            keeps = "the matrices done so far are kept" in outcome.err
            if outcome.code == 2 and tree(self.case / "out") != before and "resume" not in line and not keeps:
                problems.append((outcome, "litter: a refusal left something"))
            if outcome.code == 0:
                problems += [(outcome, f"litter: {left}") for left in litter(self.case / "out", self.case / "tmp")]
            if problems:
                break
            self.clear(keep_run=pattern.startswith("out/"))
        return problems

    def clear(self, keep_run):
        """Other commands may write to the same places."""
        for path in (self.case / "out").iterdir():
            if not (keep_run and path.name in ("run", "low")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    # Commands that are disturbed.

    def undisturbed(self, name):
        """What a command writes, how long it takes, and how many system calls it makes."""
        if name not in self.whole:
            self.prepare(name)
            before = tree(self.case / "out")
            line = WRITERS[name]
            # Once under strace, to count; with the same result.
            log = self.case / "home/calls"
            tracing = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={CALLS}"] if shutil.which("strace") else []
            limit = 600 if name == "demo" else SECONDS
            started = time.monotonic()
            outcome = self.run("undisturbed", line, before=() if name == "demo" else tracing, limit=limit)
            if outcome.code != 0:
                raise SystemExit(f"`{line}` does not work undisturbed: {outcome}")
            calls = len(log.read_bytes().splitlines()) if log.exists() else 0
            result = tree(self.case / "out")
            if tracing and name != "demo":
                self.prepare(name)
                started = time.monotonic()
                self.run("undisturbed", line)
                if tree(self.case / "out") != result:
                    raise SystemExit(f"`{line}` does not do the same twice")
            self.whole[name] = (before, result, time.monotonic() - started, calls)
        return self.whole[name]

    def prepare(self, name):
        inputs.fresh(self.case, self.inputs)
        if name == "compress force":
            shutil.copytree(self.inputs / "low", self.case / "out/low")
        if name == "resume":
            shutil.copytree(self.inputs / "run", self.case / "out/run")

    def pick(self, rng, without=()):
        names = [name for name in WRITERS if name not in without]
        return rng.choices(names, [RARE.get(name, 1) for name in names])[0]

    def kill(self, rng, seed):
        name = self.pick(rng)
        before, whole, seconds, calls = self.undisturbed(name)
        self.prepare(name)
        given, problems = tree(self.case / "in"), []
        for _ in range(rng.choice([1, 1, 2, 4])):
            how = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
            limit = max(SECONDS, 10 * seconds)
            if calls and name != "demo" and rng.random() < 0.7:
                at = 1 + int(calls * rng.random() ** 2)
                spell = f"inject={CALLS}:signal={how.name}:when={at}"
                words = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={CALLS}", "-e", spell]
                outcome = self.run("killed", self.next_line(name), before=words, limit=limit)
            else:
                delay = rng.random() * seconds * 1.1
                outcome = self.run("killed", self.next_line(name), disturb=killer(how, delay, name == "demo"), limit=limit)
            problems += [(outcome, problem) for problem in outcome.problems]
            problems += [(outcome, problem) for problem in self.partial(name, before, whole)]
            if outcome.code == 0 or problems:
                break
        if not problems:
            problems += self.again(name, whole, seconds, outcome)
        if tree(self.case / "in") != given:
            problems.append((outcome, "inputs: changed"))
        return problems

    def next_line(self, name):
        """A run that has begun is resumed."""
        begun = WRITERS[name].startswith("train") and (self.case / "out/run/run.json").exists()
        return "train --resume out/run" if begun else WRITERS[name]

    def partial(self, name, before, whole):
        """Outputs that appear in one step must be the old or the new ones at any time."""
        if name.startswith(("train", "resume", "demo")):
            return []
        shown = self.shown()
        return [] if shown in (before, whole) else [f"partial: {sorted(shown)} is neither old nor new"]

    def shown(self):
        """The outputs without what is hidden."""
        return {path: what for path, what in tree(self.case / "out").items()
                if not any(part.startswith(".") for part in Path(path).parts)}

    def again(self, name, whole, seconds, last):
        """The same command must end as if nothing had happened."""
        # A kill may come after the output has its name. Then there is nothing left to do, but whatever
        # the same command says, it removes what was left.
        if self.shown() == whole and litter(self.case / "out"):
            last = self.run("after", WRITERS[name], limit=max(SECONDS, 10 * seconds))
            if last.code not in (0, 2):
                return [(last, f"after: {last.kind()}")]
        if self.shown() != whole or WRITERS[name].startswith("train"):
            line = self.next_line(name) + (" --force" if name == "demo" else "")
            last = self.run("after", line, limit=max(SECONDS, 10 * seconds))
            if last.code != 0:
                return [(last, f"after: {last.kind()}")] + [(last, problem) for problem in last.problems]
        found = self.shown()
        differing = sorted(path for path in whole.keys() | found.keys() if whole.get(path) != found.get(path))
        left = litter(self.case / "out")
        if name == "demo":
            differing = []
        return [(last, f"result: {path} differs") for path in differing[:3]] + [
            (last, f"litter: {path}") for path in left[:3]]

    def fill(self, rng, seed):
        """A disk, or a limit of file sizes, that is used up at some byte."""
        name = self.pick(rng, without=["demo"])
        before, whole, seconds, _ = self.undisturbed(name)
        self.prepare(name)
        given = tree(self.case / "in")
        disk = rng.random() < 0.5 and Tmpfs.works(self.work)
        if disk:
            with Tmpfs(self.case / "out", 4096 * rng.choice([1, 4, 16, 32, 64, rng.randrange(1, 150)])):
                outcome = self.run("full disk", WRITERS[name])
                problems = [(outcome, problem) for problem in outcome.problems]
                problems += [(outcome, problem) for problem in self.partial(name, before, whole)]
                Tmpfs.grow(self.case / "out")
                problems += self.again(name, whole, seconds, outcome)
        else:
            size = int(rng.random() ** 3 * 150_000)
            outcome = self.run("full disk", WRITERS[name], file_size=size)
            problems = [(outcome, problem) for problem in outcome.problems]
            problems += [(outcome, problem) for problem in self.partial(name, before, whole)]
            problems += self.again(name, whole, seconds, outcome)
        if tree(self.case / "in") != given:
            problems.append((outcome, "inputs: changed"))
        return problems

    def rival(self, rng, seed):
        """Two processes with one output."""
        name = self.pick(rng, without=["demo"])
        _, whole, seconds, _ = self.undisturbed(name)
        self.prepare(name)
        words = WRITERS[name].split()
        first = self.program.start(words)
        time.sleep(rng.random() * seconds)
        second = self.program.start(words)
        outcomes = [None, None]
        # Both are waited for in turn: neither may wait for the other for long.
        outcomes[0] = self.program.finish(first, words)
        outcomes[1] = self.program.finish(second, words)
        for outcome in outcomes:
            self.runs["two processes", outcome.kind()] += 1
        problems = [(outcome, problem) for outcome in outcomes for problem in outcome.problems]
        if all(outcome.code != 0 for outcome in outcomes):
            problems.append((outcomes[1], "rivals: neither ended well"))
        else:
            winner = next(outcome for outcome in outcomes if outcome.code == 0)
            problems += self.again(name, whole, seconds, winner)
        return problems

    # Cases.

    def case_of(self, seed, areas):
        rng = random.Random(seed)
        area = rng.choices(list(AREAS), [weight for _, weight in AREAS.values()])[0]
        if areas and area not in areas:
            area = rng.choice(areas)
        try:
            problems = AREAS[area][0](self, rng, seed)
        except SystemExit:
            raise
        except Exception as error:
            problems = [(Outcome([]), f"campaign: {type(error).__name__}: {error}")]
        if problems:
            self.note(seed, area, problems)

    def note(self, seed, area, problems):
        self.failed += 1
        kinds = {f"{area}: {problem.split(':')[0]}" for _, problem in problems}
        self.found.update(kinds)
        place = self.keep / f"{seed}"
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.case.exists():
            shutil.copytree(self.case, place, symlinks=True, ignore_dangling_symlinks=True)
        place.mkdir(exist_ok=True)
        told = [{"problem": problem, "command": " ".join(outcome.words), "ended": outcome.kind(),
                 "seconds": outcome.seconds, "peak": outcome.peak, "stderr": outcome.err[-2000:]}
                for outcome, problem in problems]
        (place / "case.json").write_text(json.dumps({"seed": seed, "area": area, "problems": told}, indent=1))
        outcome, problem = problems[0]
        print(f"seed {seed}: {area}: {problem!r} by `{' '.join(outcome.words)}`", flush=True)


AREAS = {"mutated": (Campaign.mutate, 60), "killed": (Campaign.kill, 25), "full": (Campaign.fill, 10),
         "rivals": (Campaign.rival, 5)}


class Tmpfs:
    """A small disk, where this user may mount one."""

    working = None

    def __init__(self, path, size):
        self.path, self.size, self.was = path, size, path.with_name("was")

    def __enter__(self):
        self.path.rename(self.was)
        self.path.mkdir()
        mount(self.path, self.size)
        try:
            shutil.copytree(self.was, self.path, dirs_exist_ok=True)
        except (OSError, shutil.Error):
            # What was there before has to fit.
            self.grow(self.path)
            shutil.copytree(self.was, self.path, dirs_exist_ok=True)

    def __exit__(self, *_):
        shutil.rmtree(self.was)
        shutil.copytree(self.path, self.was, symlinks=True)
        subprocess.run(["umount", self.path], check=True)
        self.path.rmdir()
        self.was.rename(self.path)

    @staticmethod
    def grow(path):
        subprocess.run(["mount", "-o", "remount,size=64m", path], check=True)

    @classmethod
    def works(cls, work):
        if cls.working is None:
            trial = work / "trial"
            trial.mkdir()
            try:
                mount(trial, 1 << 20)
                subprocess.run(["umount", trial], check=True)
                cls.working = True
            except (OSError, subprocess.CalledProcessError):
                cls.working = False
        return cls.working


def mount(path, size):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True, stderr=subprocess.DEVNULL)


def killer(how, delay, group):
    def kill(process):
        time.sleep(delay)
        if process.returncode is None:
            try:
                (os.killpg if group else os.kill)(process.pid, how)
            except ProcessLookupError:
                pass
        return [how]

    return kill


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path, help="welore-cli, built in release")
    parser.add_argument("minutes", type=float, nargs="?", default=1.0)
    parser.add_argument("--seed", type=int, help="run one case only")
    parser.add_argument("--first", type=int, default=None, help="first seed; the clock by default")
    parser.add_argument("--only", choices=list(AREAS), action="append", help="only these areas")
    parser.add_argument("--keep", type=Path, default=Path("campaign-failures"), help="where failing cases are kept")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="welore-campaign-"))
    campaign = Campaign(args.binary.resolve(), work, args.keep)
    seed = args.seed if args.seed is not None else args.first if args.first is not None else int(time.time()) * 1000
    cases, until = 0, time.monotonic() + 60 * args.minutes
    try:
        campaign.set_up()
        print(f"first seed {seed}", flush=True)
        while time.monotonic() < until and (args.seed is None or cases == 0):
            campaign.case_of(seed, args.only)
            seed, cases = seed + 1, cases + 1
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tell(campaign, cases)
    return 1 if campaign.failed else 0


def tell(campaign, cases):
    areas = sorted({area for area, _ in campaign.runs})
    for area in areas:
        kinds = {kind: count for (of, kind), count in sorted(campaign.runs.items()) if of == area}
        print(f"{area:40} {sum(kinds.values()):6}  " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    print(f"{cases} cases, {sum(campaign.runs.values())} runs, {campaign.failed} cases failed")
    for kind, count in campaign.found.most_common():
        print(f"  {count:5} {kind}")


if __name__ == "__main__":
    sys.exit(main())
