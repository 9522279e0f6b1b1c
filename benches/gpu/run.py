#!/usr/bin/env python3
"""Measures `welore-cli` on an NVIDIA GPU beside PyTorch; README.md here says how and what.

    python3 benches/gpu/run.py --binary PATH [--out results.json] [--shapes 1b,7b]
"""

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from models import SHAPES, write_text
from processes import Failed, Gpu, Host, run

HERE = Path(__file__).resolve().parent
PROMPT = " ".join(f"w{7 * n % 64}" for n in range(16))
LOSS_STEPS = 5
GIB = 1 << 30


class Results:
    """What was measured so far, in a file that is whole after every number."""

    def __init__(self, path, facts, only):
        self.path, self.only = path, only
        self.data = {**facts, "correctness": [], "rows": [], "goals": []}

    def save(self):
        beside = self.path.with_name(self.path.name + ".partial")
        beside.write_text(json.dumps(self.data, indent=1))
        beside.replace(self.path)

    def row(self, shape, what, ours, pytorch):
        """Measures both sides of a row; what fails is said in it."""
        if pytorch and not any(word in what for word in self.only):
            return None
        row = {"shape": shape, "what": what, "ours": None, "pytorch": None, "ratio": None, "memory_ratio": None}
        self.data["rows"].append(row)
        for side, measure in (("ours", ours), ("pytorch", pytorch)):
            if measure is None:
                continue
            began = time.monotonic()
            row[side] = attempt(measure)
            row[side]["wall_seconds"] = round(time.monotonic() - began, 1)
            for ratio, key in (("ratio", "tokens_per_second"), ("memory_ratio", "memory")):
                sides = [row[side] and row[side].get(key) for side in ("ours", "pytorch")]
                row[ratio] = sides[0] / sides[1] if all(sides) else None
            self.save()
        say("   ".join(str(cell) for cell in cells(row)))
        return row


def attempt(measure):
    try:
        return measure()
    except Failed as failure:
        return {"error": str(failure)}
    except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bench:
    def __init__(self, args, meter, results, work):
        self.args, self.meter, self.results, self.work = args, meter, results, work
        self.until = time.monotonic() + 60 * args.limit_minutes
        self.on_gpu = args.device == "cuda"
        self.warmup, self.steps = (2, 4) if args.quick else (3, 10)

    # ------------------------------------------------------------ processes

    def limit(self, minutes=None):
        return min(60 * (minutes or self.args.stage_minutes), self.until - time.monotonic())

    def where(self, backend, dtype):
        """Flags of what computes; a CPU run passes none."""
        return ["--backend", backend, "--dtype", dtype] if self.on_gpu else []

    def welore(self, *words, minutes=None, enough=None):
        out, memory = run([self.args.binary, *words], self.limit(minutes), self.meter, enough)
        return (None if enough else json.loads(out)), memory

    def torch(self, *words):
        device = "cuda" if self.on_gpu else "cpu"
        env = {"PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
               "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, HERE / "torch_side.py", *words, "--device", device]
        out, memory = run(command, self.limit(), self.meter, env=env)
        result = json.loads(out.strip().splitlines()[-1])
        if "error" in result:
            raise Failed(result["error"])
        return {**result, "memory": memory}

    def models(self, *words):
        device = "cuda" if self.on_gpu else "cpu"
        run([sys.executable, HERE / "models.py", *words, "--device", device], self.limit(), self.meter)

    # ------------------------------------------------------------ models

    def text(self, name):
        path = self.work / f"{name}.txt"
        if not path.exists():
            write_text(path, SHAPES[name].vocab, SHAPES[name].text_tokens(self.warmup + self.steps + 2))
        return path

    def prepare(self, name):
        """The dense and the compressed model of a shape, made once and kept for later runs."""
        dense, low = self.work / f"{name}-dense", self.work / f"{name}-compressed"

        def ours():
            need, free = 2 * 2 * SHAPES[name].parameters() + GIB, shutil.disk_usage(self.work).free
            have = sum(file.stat().st_size for folder in (dense, low) for file in folder.glob("*.safetensors"))
            if free + have < need:
                raise Failed(f"{need / GIB:.0f} GiB of disk needed, {free / GIB:.0f} free")
            if not dense.exists():
                say(f"{name}: generating {SHAPES[name].parameters() / 1e9:.1f} G weights")
                self.models("make", name, dense)
            if low.exists():
                return {"note": "kept from an earlier run", **self.described(low)}
            say(f"{name}: compressing")
            found = {}
            if self.args.factors == "binary":
                try:
                    began = time.monotonic()
                    self.welore("compress", dense, "--err", 0.5, "--rank-multiple", self.args.rank_multiple,
                                "-o", low, "--json", minutes=self.args.compress_minutes)
                    return {"seconds": time.monotonic() - began, **self.described(low)}
                except Failed as failure:
                    found = {"error": str(failure)}
                for left in self.work.glob(".*"):
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            self.models("factor", dense, low)
            return {**found, "note": "factored by PyTorch instead", **self.described(low)}

        return self.results.row(name, "compress at ERR 0.5, on the CPU", ours, None)

    def described(self, low):
        about = {"bytes": sum(file.stat().st_size for file in low.glob("*.safetensors"))}
        plan = low / "welore_plan.json"
        if plan.exists():
            totals = json.loads(plan.read_text())["totals"]
            about |= {key: totals[key] for key in ("lrcs", "matrices", "err_applied", "parameters_before", "parameters_after")}
        return about

    def model(self, name, kind):
        folder = self.work / f"{name}-{kind}"
        if not folder.exists():
            raise Failed("the model was not made")
        return folder

    # ------------------------------------------------------------ rows

    def train(self, name, trainable, recompute=False, kind="compressed"):
        shape, text, count = SHAPES[name], self.text(name), self.warmup + self.steps
        flags = ["--recompute"] if recompute else []

        def ours():
            folder = self.work / "run"
            shutil.rmtree(folder, ignore_errors=True)
            metrics, seen = folder / "metrics.jsonl", []

            def enough():
                # When lines arrive is a second clock beside the one of the program.
                lines = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
                seen.extend([time.monotonic()] * (lines - len(seen)))
                return lines >= count
            try:
                # Ended before its last step: what it would save is larger than what is measured.
                _, memory = self.welore(
                    "train", self.model(name, kind), "-o", folder, "--text", text, "--trainable", trainable,
                    "--seq-len", shape.seq_len, "--batch-size", shape.batch, "--steps", count + 1000,
                    "--lr", 1e-5, "--schedule", "constant", "--warmup", 0, "--no-shuffle", "--save-every", 0,
                    *flags, *self.where("cuda", self.args.dtype), "--json", enough=enough)
                steps = [json.loads(line) for line in metrics.read_text().splitlines()[:count]]
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            tokens = shape.seq_len * shape.batch
            seconds = sum(tokens / step["tokens_per_second"] for step in steps[self.warmup:])
            return {"tokens_per_second": self.steps * tokens / seconds,
                    "tokens_per_second_by_watch": self.steps * tokens / max(seen[count - 1] - seen[self.warmup - 1], 1e-9),
                    "memory": memory, "device_memory": max(step.get("device_memory") or 0 for step in steps),
                    "losses": [step["loss"] for step in steps],
                    "step_seconds": [tokens / step["tokens_per_second"] for step in steps]}

        def pytorch():
            return self.torch("train", self.model(name, kind), "--text", text, "--trainable", trainable,
                              "--seq-len", shape.seq_len, "--batch", shape.batch, "--warmup", self.warmup,
                              "--steps", self.steps, "--lr", 1e-5, "--dtype", self.args.dtype, *flags)

        what = f"train {trainable}" + (" of the dense model" if kind == "dense" else "") + (", recompute" if recompute else "")
        self.results.row(name, what, ours, pytorch)

    def two_lengths(self, measure, few, many):
        """Speed between two lengths, so that start-up, the prompt and kernels that are compiled
        first do not count. The first run is for the caches of kernels only."""
        measure(few)
        short = 0 if self.args.quick else measure(few)[0]
        seconds, result, memory = measure(many)
        few = 0 if self.args.quick else few
        if seconds <= short:
            short, few, result["note"] = 0, 0, "start-up included: too fast to tell apart"
        elif self.args.quick:
            result["note"] = "start-up included"
        return few, seconds - short, result, memory

    def forward(self, name, kind):
        shape, text = SHAPES[name], self.text(name)

        def measure(windows):
            result, memory = self.welore("eval", self.model(name, kind), "--text", text, "--seq-len", shape.seq_len,
                                         "--windows", windows, *self.where("cuda", self.args.dtype), "--json")
            return result["seconds"], {"perplexity": result["perplexity"]}, memory

        def ours():
            few, seconds, result, memory = self.two_lengths(measure, *shape.windows)
            return {"tokens_per_second": (shape.windows[1] - few) * shape.seq_len / seconds, "memory": memory, **result}

        def pytorch():
            return self.torch("forward", self.model(name, kind), "--text", text, "--seq-len", shape.seq_len,
                              "--windows", shape.windows[1], "--batches", 1, shape.batch, "--dtype", self.args.dtype)

        self.results.row(name, f"forward {kind}", ours, pytorch)

    def generate(self, name, kind):
        lengths = SHAPES[name].lengths

        def measure(length):
            result, memory = self.welore("generate", self.model(name, kind), "--prompt", PROMPT, "--max-new-tokens",
                                         length, *self.where("cuda", self.args.dtype), "--json")
            return len(result["ids"]) / result["tokens_per_second"], {}, memory

        def ours():
            few, seconds, result, memory = self.two_lengths(measure, *lengths)
            return {"tokens_per_second": (lengths[1] - few) / seconds, "memory": memory, **result}

        def pytorch():
            result = self.torch("generate", self.model(name, kind), "--prompt", PROMPT, "--lengths", *lengths,
                                "--dtype", self.args.dtype)
            return {key: value for key, value in result.items() if key != "ids"}

        self.results.row(name, f"generate {kind}", ours, pytorch)

    # ------------------------------------------------------------ correctness

    def check(self):
        """The small model on the GPU and in PyTorch against the CPU. Gives what disagrees."""
        name, shape, text = "small", SHAPES["small"], self.text("small")
        if "error" in self.prepare(name)["ours"]:
            return ["the small model could not be compressed"]
        low = self.work / "small-compressed"
        windows, length = shape.windows[1], shape.lengths[1]

        def perplexity(kind, *where):
            return self.welore("eval", self.work / f"small-{kind}", "--text", text, "--seq-len", shape.seq_len,
                               "--windows", windows, *where, "--json")[0]["perplexity"]

        def losses(trainable, *where):
            folder = self.work / "run"
            shutil.rmtree(folder, ignore_errors=True)
            self.welore("train", low, "-o", folder, "--text", text, "--trainable", trainable, "--seq-len", shape.seq_len,
                        "--batch-size", shape.batch, "--steps", LOSS_STEPS, "--lr", 1e-3, "--schedule", "constant",
                        "--warmup", 0, "--no-shuffle", "--save-every", 0, *where, "--json")
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            return [line["loss"] for line in lines]

        def greedy(*where):
            return self.welore("generate", low, "--prompt", PROMPT, "--max-new-tokens", length, *where, "--json")[0]["ids"]

        def torch_perplexity(kind):
            return self.torch("forward", self.work / f"small-{kind}", "--text", text, "--seq-len", shape.seq_len,
                              "--windows", windows, "--dtype", "f32")["perplexity"]

        def torch_losses(trainable):
            return self.torch("train", low, "--text", text, "--trainable", trainable, "--seq-len", shape.seq_len,
                              "--batch", shape.batch, "--steps", LOSS_STEPS, "--lr", 1e-3, "--dtype", "f32")["losses"]

        def torch_greedy():
            return self.torch("generate", low, "--prompt", PROMPT, "--lengths", 1, length, "--dtype", "f32")["ids"]

        cpu, gpu = self.where("flex", "f32"), self.where("cuda", "f32")
        wrong = []

        def compare(what, reference, tolerance, **others):
            reference = attempt(lambda: {"value": reference()})
            for other, measure in others.items():
                value = attempt(lambda: {"value": measure()})
                gap = difference(reference.get("value"), value.get("value"))
                line = {"what": what, "side": other, "cpu": reference, "other": value, "difference": gap,
                        "tolerance": tolerance, "ok": gap is not None and gap <= tolerance}
                self.results.data["correctness"].append(line)
                self.results.save()
                error = value.get("error") or reference.get("error")
                told = error or f"differs by {gap:.1e}"
                say(f"{'ok   ' if line['ok'] else 'WRONG'} {what}, {other}: {told}, at most {tolerance:g}")
                if not line["ok"]:
                    wrong.append(f"{what}, {other}: {told}; CPU {brief(reference)}, {other} {brief(value)}")

        for kind in ("dense", "compressed"):
            compare(f"perplexity, {kind}", lambda: perplexity(kind, *cpu), 1e-3,
                    gpu_f32=lambda: perplexity(kind, *gpu), pytorch_f32=lambda: torch_perplexity(kind))
        for trainable in ("lrc", "full"):
            compare(f"losses of {LOSS_STEPS} steps, {trainable}", lambda: losses(trainable, *cpu), 1e-3,
                    gpu_f32=lambda: losses(trainable, *gpu), pytorch_f32=lambda: torch_losses(trainable))
        compare("greedy tokens", lambda: greedy(*cpu), 0, gpu_f32=lambda: greedy(*gpu), pytorch_f32=torch_greedy)
        if self.on_gpu:
            low_precision = self.where("cuda", "bf16")
            compare("perplexity, compressed", lambda: perplexity("compressed", *cpu), 0.02,
                    gpu_bf16=lambda: perplexity("compressed", *low_precision))
            compare("losses of 5 steps, lrc", lambda: losses("lrc", *cpu), 0.02, gpu_bf16=lambda: losses("lrc", *low_precision))
        return wrong

    # ------------------------------------------------------------ everything

    def everything(self):
        """What is most telling first, should time run out."""
        for name in self.args.shapes:
            self.prepare(name)
            self.train(name, "lrc")
            self.train(name, "full")
            self.train(name, "full", recompute=True)
            self.forward(name, "compressed")
            self.generate(name, "compressed")
        for name in self.args.shapes:
            self.train(name, "lrc", recompute=True)
            self.forward(name, "dense")
            self.generate(name, "dense")
            self.train(name, "full", kind="dense")


def difference(one, other):
    """The largest relative difference; of tokens whether they differ."""
    if one is None or other is None:
        return None
    ones, others = (value if isinstance(value, list) else [value] for value in (one, other))
    if len(ones) != len(others):
        return math.inf
    if all(isinstance(value, int) for value in ones):
        return 0 if ones == others else 1
    return max(abs(a - b) / abs(a) for a, b in zip(ones, others))


def brief(side):
    value = side.get("value")
    if isinstance(value, list):
        return "[" + " ".join(f"{number:.6g}" for number in value[:8]) + "]"
    return side.get("error") if value is None else f"{value:.6g}"


def goals(rows, shapes):
    """The goals of the project, of every shape; met is None where a figure is missing."""
    def side(shape, what, whose="ours"):
        row = next((row for row in rows if (row["shape"], row["what"]) == (shape, what)), {})
        found = row.get(whose) or {}
        return found if found.get("tokens_per_second") else None

    found = []
    for shape in shapes:
        lrc = side(shape, "train lrc") or side(shape, "train lrc, recompute")
        # Where full tuning does not fit, what does fit takes its place.
        fits = "train full" if side(shape, "train full") else "train full, recompute"
        for what in (fits, "train full of the dense model"):
            full = side(shape, what)
            speed = lrc and full and lrc["tokens_per_second"] / full["tokens_per_second"]
            memory = lrc and full and lrc["memory"] / full["memory"]
            found.append({"shape": shape, "goal": f"LRC >= 3x the tokens/s of {what}", "value": speed, "met": speed and speed >= 3})
            found.append({"shape": shape, "goal": f"LRC <= 0.6x the memory of {what}", "value": memory, "met": memory and memory <= 0.6})
    for row in rows:
        if row["ratio"]:
            goal = f"{row['what']}: at least PyTorch's tokens/s"
            found.append({"shape": row["shape"], "goal": goal, "value": row["ratio"], "met": row["ratio"] >= 1})
    return found


# ---------------------------------------------------------------- the table

HEADER = ["shape", "what", "ours tok/s", "PyTorch tok/s", "ratio", "ours GiB", "PyTorch GiB", "ratio"]


def cells(row):
    def number(side, key, form):
        if side is None:
            return "-"
        if key == "tokens_per_second" and "seconds" in side:
            return f"{side['seconds']:.1f} s"
        if side.get(key):
            return form(side[key])
        told = side.get("error") or side.get("note") or "-"
        return told.replace("|", "/")[:60] if key == "tokens_per_second" else "-"

    def speed(value):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"

    def ratio(value):
        return "-" if value is None else f"{value:.2f}"

    ours, theirs = row["ours"], row["pytorch"]
    return [row["shape"], row["what"], number(ours, "tokens_per_second", speed), number(theirs, "tokens_per_second", speed),
            ratio(row["ratio"]), number(ours, "memory", lambda value: f"{value / GIB:.1f}"),
            number(theirs, "memory", lambda value: f"{value / GIB:.1f}"), ratio(row["memory_ratio"])]


def table(data):
    lines = [HEADER, ["---"] * len(HEADER)] + [cells(row) for row in data["rows"]]
    said = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    verdicts = {True: "met", False: "missed", None: "not measured"}
    ended = [f"{goal['shape']}: {goal['goal']}: {'-' if goal['value'] is None else format(goal['value'], '.2f')}, "
             f"{verdicts[goal['met']]}" for goal in data["goals"]]
    return said + "\n\n" + "\n".join(ended)


# ---------------------------------------------------------------- start

def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True, help="a welore-cli built with --features cuda")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--work", type=Path, help="models are made here, and freed in the end [default: a temporary directory]")
    parser.add_argument("--keep", action="store_true", help="leave the models in --work for another run")
    parser.add_argument("--shapes", default="1b,7b", help="of " + ", ".join(SHAPES))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries this script out; its figures mean nothing")
    parser.add_argument("--quick", action="store_true", help="fewer steps and runs")
    parser.add_argument("--only", default="", help="rows whose name has one of these, such as `train,generate compressed`")
    parser.add_argument("--anyway", action="store_true", help="measure though results are wrong")
    parser.add_argument("--limit-minutes", type=float, default=180, help="of everything")
    parser.add_argument("--stage-minutes", type=float, default=15, help="of a process")
    parser.add_argument("--compress-minutes", type=float, default=60, help="of the compression of a model")
    parser.add_argument("--factors", choices=["binary", "torch"], default="binary",
                        help="torch: do not decompose, factor at the ranks the generator used")
    parser.add_argument("--rank-multiple", type=int, default=16, help="of compress; the hardware likes 8 and more")
    args = parser.parse_args()
    args.binary, args.shapes = args.binary.resolve(), args.shapes.split(",")
    args.dtype = "bf16" if args.device == "cuda" else "f32"
    if unknown := [name for name in args.shapes if name not in SHAPES]:
        parser.error(f"no such shape: {', '.join(unknown)}")
    if not os.access(args.binary, os.X_OK):
        parser.error(f"{args.binary} is not a program")
    return args


def facts_of(args, meter):
    """The machine and the versions; refuses a binary or a GPU that cannot do the work."""
    facts = {"format": "welore-gpu-bench", "date": datetime.datetime.now().isoformat(timespec="seconds"),
             **meter.describe(), "memory_ruler": meter.ruler, "python": platform.python_version(),
             "cores": os.cpu_count(), "quick": args.quick, "dtype": args.dtype, "rank_multiple": args.rank_multiple}
    out, _ = run([args.binary, "--version"], 60, meter)
    facts["welore"] = out.strip()
    out, _ = run([sys.executable, HERE / "torch_side.py", "versions"], 300, meter)
    facts |= json.loads(out)
    if args.device == "cuda":
        if not facts["torch_sees_gpu"]:
            raise Failed("PyTorch sees no GPU")
        out, _ = run([args.binary, "devices", "--json"], 120, meter)
        cuda = next((backend for backend in json.loads(out)["backends"] if backend["backend"] == "cuda"), {})
        if not cuda.get("compiled"):
            raise Failed("the binary was built without --features cuda")
        if not any("bf16" in device.get("dtypes", []) for device in cuda["devices"]):
            raise Failed(f"the binary finds no CUDA device that computes in bf16: {cuda['devices']}")
        facts["device"] = cuda["devices"][0]
    return facts


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        meter = Gpu() if args.device == "cuda" else Host()
        results = Results(args.out, facts_of(args, meter), args.only.split(","))
    except (Failed, OSError) as error:
        say(f"cannot measure here: {error}")
        return 2
    results.save()
    work = (args.work or Path(tempfile.mkdtemp(prefix="welore-gpu-bench-"))).resolve()
    before = set(work.iterdir()) if work.exists() else set()
    work.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(args, meter, results, work)
        wrong = bench.check()
        if wrong:
            say("results disagree:\n  " + "\n  ".join(wrong))
            if not args.anyway:
                say("not measured; --anyway measures nonetheless")
                return 1
        bench.everything()
        return 0
    finally:
        results.data["goals"] = goals(results.data["rows"], args.shapes)
        results.save()
        print(table(results.data))
        if not args.keep:
            for path in set(work.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not args.work:
                work.rmdir()


if __name__ == "__main__":
    sys.exit(main())
