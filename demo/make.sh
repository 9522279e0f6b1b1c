#!/usr/bin/env bash
# Makes the demo's built-in model again: stories, tokenizer, training from scratch.
#
#   demo/make.sh OUT
#
# Takes about half an hour on two cores. OUT/run/model is then what lies in
# welore-cli/src/demo_model/model, OUT/run/metrics.jsonl what demo/loss.csv is made from.
# CARGO_TARGET_DIR is respected.
set -euo pipefail
out=$1
here=$(cd "$(dirname "$0")/.." && pwd)
cargo() { command cargo "$@" --release --quiet --manifest-path "$here/Cargo.toml" -p welore-cli; }
cargo build
cargo build --example demo_prepare
bin=${CARGO_TARGET_DIR:-$here/target}/release
"$bin/examples/demo_prepare" "$out"
"$bin/welore-cli" train "$out" --from-scratch --text "$out/train.jsonl" -o "$out/run" \
    --seq-len 256 --batch-size 8 --steps 2400 --lr 3e-3 --warmup 100 --lr-floor 0.05 \
    --weight-decay 0.3 --clip 1 --save-every 200 \
    --eval-text "$out/valid.txt" --eval-every 200
