#!/usr/bin/env bash
# Speed of a GGUF file here and in llama.cpp, on the same machine in turn: tokens that are generated, and tokens that are read.
#
#   benches/gguf_speed.sh FILE.gguf LLAMA_BIN TEXT [ROUNDS]
#
# LLAMA_BIN is the directory of llama-bench. WELORE=FILE is a binary; otherwise it is built, and CARGO_TARGET_DIR is
# respected.
set -euo pipefail
file=$1 llama=$2 text=$3 rounds=${4:-5}
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${WELORE:-}" ]; then
    cargo build --release --quiet --manifest-path "$here/../Cargo.toml" -p welore-cli
fi
welore=${WELORE:-${CARGO_TARGET_DIR:-$here/../target}/release/welore-cli}
export LD_LIBRARY_PATH=$llama${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
ours() { # generate | read
    case $1 in
        generate) "$welore" generate "$file" --prompt "The capital of France is" --max-new-tokens 64 --temperature 0 --json 2>/dev/null ;;
        read) "$welore" eval "$file" --text "$text" --windows 8 --json 2>/dev/null ;;
    esac | python3 -c 'import json, sys; print(json.load(sys.stdin)["tokens_per_second"])'
}
theirs() {
    case $1 in
        generate) "$llama/llama-bench" -m "$file" -p 0 -n 64 -r 1 -t "$(nproc)" -o json 2>/dev/null ;;
        read) "$llama/llama-bench" -m "$file" -p 512 -n 0 -r 4 -t "$(nproc)" -o json 2>/dev/null ;;
    esac | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["avg_ts"])'
}
for what in generate read; do
    for _ in $(seq "$rounds"); do
        echo "$what $(ours "$what") $(theirs "$what")"
    done
done | python3 -c '
import statistics, sys
rows = [line.split() for line in sys.stdin]
for what in ["generate", "read"]:
    pairs = [(float(a), float(b)) for kind, a, b in rows if kind == what]
    ours, theirs = (statistics.median(x) for x in zip(*pairs))
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"{what}: welore {ours:.1f} tokens/s, llama.cpp {theirs:.1f} tokens/s, median ratio {ratio:.2f}")
'
