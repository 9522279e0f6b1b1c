#!/usr/bin/env bash
# Speed and memory of `welore-cli train` against PyTorch on the same machine in the same
# minute: LRC-only at ERR 0.5 in batches of 2 x 256, and full tuning of the same model.
#
#   pip install torch transformers
#   benches/train_speed.sh MODEL TEXT REFERENCE [ROUNDS]
#
# REFERENCE is a script that is called as `REFERENCE MODEL TEXT lrc|full --err 0.5 --steps 8`
# and prints a JSON line with `tok_s` and `peak_rss_mb`. PYTHON names the interpreter that has
# torch; CARGO_TARGET_DIR is respected.
set -euo pipefail
model=$1 text=$2 reference=$3 rounds=${4:-3}
here=$(cd "$(dirname "$0")" && pwd)
cargo build --release --quiet --manifest-path "$here/../Cargo.toml" -p welore-cli
welore=${CARGO_TARGET_DIR:-$here/../target}/release/welore-cli
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$welore" compress "$model" --err 0.5 -o "$scratch/low" >/dev/null
for round in $(seq "$rounds"); do
    for what in lrc full; do
        run=$scratch/$what-$round
        "$welore" train "$scratch/low" --trainable $what --text "$text" -o "$run" --seq-len 256 \
            --batch-size 2 --steps 8 --schedule constant --warmup 0 --no-shuffle --save-every 0 \
            >/dev/null 2>&1
        "$python" "$reference" "$model" "$text" $what --err 0.5 --steps 8 2>/dev/null |
            "$python" -c '
import json, statistics, sys
what, metrics = sys.argv[1:]
steps = [json.loads(line) for line in open(metrics)]
ours = statistics.median(step["tokens_per_second"] for step in steps)
memory = max(step["peak_memory"] for step in steps) / 2**20
theirs = json.load(sys.stdin)
print(f"{what:5} welore {ours:.0f} tokens/s {memory:.0f} MiB, PyTorch {theirs['"'tok_s'"']:.0f} tokens/s"
      f" {theirs['"'peak_rss_mb'"']:.0f} MiB, ratios {ours / theirs['"'tok_s'"']:.2f}"
      f" and {memory / theirs['"'peak_rss_mb'"']:.2f}")
' $what "$run/metrics.jsonl"
        rm -rf "$run"
    done
done
