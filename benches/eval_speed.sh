#!/usr/bin/env bash
# Speed of `welore-cli eval` against PyTorch on the same machine in the same minute.
#
#   pip install torch transformers
#   benches/eval_speed.sh MODEL TEXT [ROUNDS]
#
# PYTHON names the interpreter that has torch; CARGO_TARGET_DIR is respected.
set -euo pipefail
model=$1 text=$2 rounds=${3:-3}
here=$(cd "$(dirname "$0")" && pwd)
cargo build --release --quiet --manifest-path "$here/../Cargo.toml" -p welore-cli
welore=${CARGO_TARGET_DIR:-$here/../target}/release/welore-cli
python=${PYTHON:-python3}
speed() { "$python" -c 'import json, sys; print(json.load(sys.stdin)["tokens_per_second"])'; }
for _ in $(seq "$rounds"); do
    ours=$("$welore" eval "$model" --text "$text" --windows 12 --json | speed)
    theirs=$("$python" "$here/transformers_perplexity.py" "$model" "$text" --windows 12 --threads "$(nproc)" 2>/dev/null | speed)
    "$python" -c "print(f'welore {$ours:.0f} tokens/s, PyTorch {$theirs:.0f} tokens/s, ratio {$ours / $theirs:.2f}')"
done
