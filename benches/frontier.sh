#!/usr/bin/env bash
# The frontier, bytes against divergence: f16, llama.cpp's own files with an importance matrix, types chosen here at
# their sizes, forms chosen here, and low rank alone in f16, as one table and one picture.
#
#   benches/frontier.sh MODEL CALIBRATION LLAMA_BIN TEXT[,TEXT...] OUT
#
# MODEL is dense. CALIBRATION is of `welore-cli calibrate`, with gradients. LLAMA_BIN is the directory of llama-quantize.
# TEXT is what divergence is measured on. Files that are in OUT are not made again, so a run that was stopped goes on.
# OUT then has frontier.md, frontier.svg, frontier.html and frontier.json, and the models.
#
# IMATRIX=FILE takes an importance matrix of llama-imatrix; otherwise it is CALIBRATION as one. KEEP, MIXED and TYPED
# are lists: shares of the parameters that low rank keeps, sizes in MB of mixed forms, sizes in MB of types beside
# llama.cpp's; FORMS is what mixed models are made of. WINDOWS and SKIP are what `compare` measures. WELORE=FILE is a
# binary; otherwise it is built.
set -euo pipefail
if [ $# -ne 5 ]; then
    sed -n '5s/^# *//p' "$0" >&2
    exit 2
fi
model=$1 calibration=$2 llama=$3 texts=$4 out=$5
keep=${KEEP:-"0.9 0.8 0.7 0.6"} mixed=${MIXED:-"93.5 88.2 80 70"} typed=${TYPED:-"80"} forms=${FORMS:-blocks}
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${WELORE:-}" ]; then
    cargo build --release --quiet --manifest-path "$here/../Cargo.toml" -p welore-cli
fi
welore=${WELORE:-${CARGO_TARGET_DIR:-$here/../target}/release/welore-cli}
export LD_LIBRARY_PATH=$llama${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir -p "$out"/{llama.cpp,typed,mixed,rank,log}
out=$(cd "$out" && pwd)

# step NAME PATH COMMAND...: runs a command that makes PATH, unless it is there. Every command here writes PATH whole or
# not at all, llama-quantize through `quantize`.
step() {
    local name=$1 path=$2
    shift 2
    if [ -e "$path" ]; then return; fi
    echo "$name" >&2
    if ! "$@" >"$out/log/$name.log" 2>&1; then
        tail -5 "$out/log/$name.log" >&2
        echo "$name failed; all that it said is in $out/log/$name.log" >&2
        exit 1
    fi
}
quantize() { # TYPE
    rm -f "$out/part.gguf"
    # `set -e` does not hold within a condition, which is where `step` runs this.
    "$llama/llama-quantize" --imatrix "$imatrix" "$out/f32.gguf" "$out/part.gguf" "$1" &&
        mv "$out/part.gguf" "$out/llama.cpp/$1.gguf"
}

step f32 "$out/f32.gguf" "$welore" export "$model" --gguf "$out/f32.gguf" --dtype f32
step f16 "$out/f16.gguf" "$welore" export "$model" --gguf "$out/f16.gguf" --dtype f16
imatrix=${IMATRIX:-$out/imatrix.gguf}
step imatrix "$imatrix" "$welore" imatrix "$calibration" -o "$imatrix"
for type in Q8_0 Q5_K_M Q4_K_M Q3_K_M Q2_K Q4_0; do
    step "llama.cpp-$type" "$out/llama.cpp/$type.gguf" quantize "$type"
    size=$(wc -c <"$out/llama.cpp/$type.gguf")
    target="$out/typed/at-$type.gguf"
    step "typed-at-$type" "$target" "$welore" compress "$model" --for llama.cpp --max-bytes "$size" --calibration "$calibration" -o "$target"
done
for size in $typed; do
    target="$out/typed/${size}MB.gguf"
    step "typed-$size" "$target" "$welore" compress "$model" --for llama.cpp --max-bytes "${size}MB" --calibration "$calibration" -o "$target"
done
for size in $mixed; do
    target="$out/mixed/to-${size}MB"
    step "mixed-$size" "$target" "$welore" compress "$model" --for welore --forms "$forms" --max-bytes "${size}MB" --calibration "$calibration" -o "$target"
done
for share in $keep; do
    target="$out/rank/keep-$share"
    if [ -e "$target" ]; then continue; fi
    step "rank-$share" "$out/rank/f32-$share" "$welore" compress "$model" --keep-params "$share" --method best --calibration "$calibration" -o "$out/rank/f32-$share"
    step "rank-$share-f16" "$target" "$welore" export "$out/rank/f32-$share" --dtype f16 -o "$target"
    rm -r "$out/rank/f32-$share"
done

# list FORMAT VALUES...: the values in a format, with commas between them.
list() {
    local format=$1 joined
    shift
    # shellcheck disable=SC2059
    joined=$(printf "$format," "$@")
    echo "${joined%,}"
}
newer=$(find "$out"/f16.gguf "$out"/{llama.cpp,typed,mixed,rank} -newer "$out/frontier.json" 2>/dev/null | head -1 || true)
if [ ! -s "$out/frontier.json" ] || [ -n "$newer" ]; then
    echo compare >&2
    IFS=, read -r -a measured <<<"$texts"
    options=(--kl --windows "${WINDOWS:-8}" --skip "${SKIP:-256}" --json)
    for text in "${measured[@]}"; do options+=(--text "$text"); done
    # Sizes and shares have no spaces.
    # shellcheck disable=SC2086
    "$welore" compare "$model" "${options[@]}" --report "$out/frontier.html" --picture "$out/frontier.svg" \
        --models "f16=$out/f16.gguf" \
        --models "llama.cpp with imatrix=$(list "$out/llama.cpp/%s.gguf" Q8_0 Q5_K_M Q4_K_M Q3_K_M Q2_K Q4_0)" \
        --models "ours typed=$(list "$out/typed/at-%s.gguf" Q8_0 Q5_K_M Q4_K_M Q3_K_M Q2_K Q4_0),$(list "$out/typed/%sMB.gguf" $typed)" \
        --models "ours mixed=$(list "$out/mixed/to-%sMB" $mixed)" \
        --models "ours low rank in f16=$(list "$out/rank/keep-%s" $keep)" \
        >"$out/frontier.part"
    mv "$out/frontier.part" "$out/frontier.json"
fi
python3 - "$out/frontier.json" >"$out/frontier.md" <<'PYTHON'
import json, os, sys

found = json.load(open(sys.argv[1]))
texts = [os.path.basename(text) for text in found["texts"]]
head = ["", "model", "MB"] + [f"KL, {text}" for text in texts] + [f"perplexity, {text}" for text in texts]
print("| " + " | ".join(head) + " |")
print("|" + "---|" * len(head))
number = lambda value, form: "-" if value is None else format(value, form)
for row in found["rows"]:
    name = os.path.basename(row.get("model") or row["method"]).removesuffix(".gguf")
    cells = [row.get("series", ""), name, f"{row['bytes'] / 1e6:.1f}"]
    cells += [number(kl, ".2e" if kl and kl < 1e-3 else ".4f") for kl in row["kls"]]
    cells += [number(perplexity, ".2f") for perplexity in row["perplexities"]]
    print("| " + " | ".join(cells) + " |")
PYTHON
cat "$out/frontier.md"
