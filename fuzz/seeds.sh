#!/usr/bin/env bash
# Fills corpus/TARGET with the files that tests/library/fuzzed.rs damages. What is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."
WELORE_FUZZ_CORPUS=$PWD/fuzz/corpus cargo test -p welore-cli --locked --test library -- \
    --exact fuzzed::whole_files_are_accepted
