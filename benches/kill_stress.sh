#!/usr/bin/env bash
# Kills a training run with SIGKILL at random moments, again and again, and checks that it ends
# with the same losses, bit for bit, and the same model as a run that was never killed.
#
#   benches/kill_stress.sh [KILLS]
#
# CARGO_TARGET_DIR is respected.
set -euo pipefail
kills=${1:-200}
here=$(cd "$(dirname "$0")/.." && pwd)
cargo build --release --quiet --manifest-path "$here/Cargo.toml" -p welore-cli
welore=${CARGO_TARGET_DIR:-$here/target}/release/welore-cli
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# Replaces the shell it is called in, so that it is this program that is killed.
start() {
    exec "$welore" train "$here/tests/fixtures/tiny-llama" --err 0.8 --text "$here/tests/fixtures/story.txt" \
        -o "$1" --seq-len 32 --batch-size 2 --steps $((60 * kills)) --lr 1e-3 --warmup 10 --save-every 5 \
        --eval-text "$here/tests/fixtures/story.txt" --eval-every 50 --eval-windows 4
}
losses() { python3 -c '
import json, sys
for line in open(sys.argv[1]):
    line = json.loads(line)
    print(line["step"], line.get("loss"), line.get("grad_norm"), line.get("perplexity"))' "$1/metrics.jsonl"; }
(start "$scratch/whole") >/dev/null 2>&1
killed=0
while true; do
    if [ -f "$scratch/killed/run.json" ]; then
        "$welore" train --resume "$scratch/killed" >/dev/null 2>"$scratch/said" &
    else
        rm -rf "$scratch/killed"
        start "$scratch/killed" >/dev/null 2>"$scratch/said" &
    fi
    run=$!
    if [ "$killed" -lt "$kills" ]; then
        sleep "0.$(printf %03d $((RANDOM % 400 + 60)))"
        if kill -KILL $run 2>/dev/null; then killed=$((killed + 1)); fi
        wait $run 2>/dev/null || code=$?
        # A run that ended by itself must have been right to.
        if [ "${code:-0}" -ne 0 ] && [ "${code:-0}" -ne 137 ]; then cat "$scratch/said"; exit 1; fi
        unset code
        [ -d "$scratch/killed/model" ] && break
    else
        wait $run || { cat "$scratch/said"; exit 1; }
        break
    fi
done
diff <(losses "$scratch/whole") <(losses "$scratch/killed")
cmp "$scratch/whole/model/model.safetensors" "$scratch/killed/model/model.safetensors"
echo "$killed kills; the same losses and the same model"
