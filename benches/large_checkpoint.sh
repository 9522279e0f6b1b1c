#!/usr/bin/env bash
# Time and peak memory of `analyze`, `plan` and `compress` on a large checkpoint, a line each.
#
#   benches/large_checkpoint.py /tmp/two --layers 2
#   benches/large_checkpoint.py /tmp/eight --layers 8
#   cargo build --release -p welore-cli
#   for model in /tmp/two /tmp/eight; do benches/large_checkpoint.sh $model target/release/welore-cli; done
#
# Peak memory should be the same for both. WELORE_OPTIONS holds options for all three, such as
# "--jobs 2 --max-memory 3GB". The compressed model is removed again.
set -euo pipefail
model=$1
binary=$2
read -ra options <<<"${WELORE_OPTIONS:-}"
scratch=$(mktemp -d "$(dirname "$model")/large-checkpoint.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
# Nothing is known before, and what is measured is known to the next command.
export WELORE_CACHE=$scratch/cache
measure() {
    python3 - "$@" <<'PYTHON'
import os, subprocess, sys, time

name, *command = sys.argv[1:]
started = time.monotonic()
process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
# The resources of this child alone: its peak resident memory, mapped pages of files included.
_, status, usage = os.wait4(process.pid, 0)
seconds = time.monotonic() - started
code = os.waitstatus_to_exitcode(status)
print(f"{name}: {seconds:.1f} s, {usage.ru_maxrss * 1024 / 1e9:.2f} GB peak resident memory", flush=True)
sys.exit(code)
PYTHON
}
echo "$model ($(du -sh "$model" | cut -f1)) ${options[*]:-}"
measure analyze "$binary" analyze "$model" -o "$scratch/spectra.json" "${options[@]}"
measure "plan, spectra known" "$binary" plan "$model" --err 0.5 -o "$scratch/plan.json" "${options[@]}"
measure compress "$binary" compress "$model" --plan "$scratch/plan.json" -o "$scratch/low" "${options[@]}"
