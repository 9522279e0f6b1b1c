#!/usr/bin/env bash
# Trains the demo's model as demo/make.sh does and records its gradients: a table of when they
# settle beside the ranks of the trained weights, and a page that draws them.
#
#   demo/gradients.sh OUT [STEPS]
#
# All 2400 steps take about as long as demo/make.sh; fewer are another run, whose learning rate
# falls sooner. The run is OUT/gradients, the page OUT/gradients.html. Stories and tokenizer that
# are in OUT already are used. CARGO_TARGET_DIR is respected.
set -euo pipefail
out=$1
steps=${2:-2400}
here=$(cd "$(dirname "$0")/.." && pwd)
cargo() { command cargo "$@" --release --quiet --manifest-path "$here/Cargo.toml" -p welore-cli; }
cargo build
cargo build --example demo_prepare
bin=${CARGO_TARGET_DIR:-$here/target}/release
[ -e "$out/train.jsonl" ] || "$bin/examples/demo_prepare" "$out"
"$bin/welore-cli" train "$out" --from-scratch --text "$out/train.jsonl" -o "$out/gradients" \
    --seq-len 256 --batch-size 8 --steps "$steps" --lr 3e-3 --warmup 100 --lr-floor 0.05 \
    --weight-decay 0.3 --clip 1 --save-every 200 \
    --eval-text "$out/valid.txt" --eval-every 200 \
    --track-gradients 25
"$bin/welore-cli" report --run "$out/gradients" --title "Gradients of the demo's model" \
    -o "$out/gradients.html"
python3 "$here/demo/gradients.py" "$out/gradients/gradients.json"
