#!/usr/bin/env bash
# Memory over 1000 training steps on a device, every 100 steps: that of the process, and that of
# the device's pool where the backend tells it.
#
#   cargo build --release -p welore-cli --features wgpu
#   benches/memory_steps.sh target/release/welore-cli wgpu
#
# VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.x86_64.json takes Mesa's software Vulkan.
set -euo pipefail
binary=$1
backend=$2
here=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$binary" compress "$here/tests/fixtures/tiny-llama" --err 0.5 -o "$scratch/low" >/dev/null
"$binary" train "$scratch/low" --text "$here/tests/fixtures/story.txt" -o "$scratch/run" --backend "$backend" \
    --seq-len 64 --batch-size 2 --steps 1000 --lr 1e-4 --save-every 0 >/dev/null 2>"$scratch/log" || {
    tail -5 "$scratch/log" >&2
    exit 1
}
python3 - "$scratch/run/metrics.jsonl" <<'PYTHON'
import json, sys

lines = [json.loads(line) for line in open(sys.argv[1])]
megabytes = lambda value: "-" if value is None else f"{value / 1e6:.1f} MB"
for line in lines:
    if line["step"] == 10 or line["step"] % 100 == 0:
        print(f"step {line['step']:4}: process {megabytes(line['peak_memory'])} at most, device {megabytes(line['device_memory'])}")
PYTHON
