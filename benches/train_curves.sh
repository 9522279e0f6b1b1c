#!/usr/bin/env bash
# Perplexity over steps of one compressed model, tuned in five ways: LRC-only, full, dense
# projections only, LoRA, GaLore. Equal steps, batches and schedule; the learning rate is the
# method's own.
#
#   benches/train_curves.sh MODEL TRAIN_TEXT TEST_TEXT OUT [ERR] [STEPS]
#
# OUT keeps the runs. CARGO_TARGET_DIR is respected.
set -euo pipefail
model=$1 train=$2 test=$3 out=$4 err=${5:-0.5} steps=${6:-48}
here=$(cd "$(dirname "$0")" && pwd)
cargo build --release --quiet --manifest-path "$here/../Cargo.toml" -p welore-cli
welore=${CARGO_TARGET_DIR:-$here/../target}/release/welore-cli
mkdir -p "$out"
[ -d "$out/low" ] || "$welore" compress "$model" --err "$err" -o "$out/low" >/dev/null
while read -r what lr; do
    "$welore" train "$out/low" --trainable "$what" --lr "$lr" --text "$train" -o "$out/$what" \
        --seq-len 256 --batch-size 2 --steps "$steps" --warmup 4 --clip 1 --save-every 0 \
        --eval-text "$test" --eval-every $((steps / 4)) --eval-windows 16 --eval-seq-len 256 >/dev/null 2>&1
done <<'METHODS'
lrc 5e-4
full 5e-4
nlrc 5e-4
lora 2e-3
galore 2e-3
METHODS
python3 - "$out" <<'PYTHON'
import json, statistics, sys
from pathlib import Path
for what in ("lrc", "full", "nlrc", "lora", "galore"):
    run = Path(sys.argv[1], what)
    lines = [json.loads(line) for line in open(run / "metrics.jsonl")]
    steps = [line for line in lines if "loss" in line]
    curve = "  ".join(f"{line['step']}: {line['perplexity']:.1f}" for line in lines if "perplexity" in line)
    speed = statistics.median(step["tokens_per_second"] for step in steps)
    memory = max(step["peak_memory"] for step in steps) / 1e9
    print(f"{what:6} {speed:4.0f} tokens/s {memory:.2f} GB  {curve}")
PYTHON
