#!/usr/bin/env bash
# The wheel: maturin packs it, pip installs it into a new environment, and the program in it runs.
#     tests/interop/wheel.sh BINARY
# BINARY is packed as it is. With WELORE_WHEEL_BUILD=1 maturin has cargo build the program, in
# CARGO_TARGET_DIR, with WELORE_PROFILE (dev) and WELORE_FEATURES (those of the default build).
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
binary=$(realpath "${1:?usage: $0 BINARY}")
python=${WELORE_PYTHON:-python3}

skip() {
    echo "SKIPPED: wheel: $1"
    exit 0
}
fail() {
    echo "wheel: $1" >&2
    exit 1
}
command -v "$python" >/dev/null || skip "there is no Python"
command -v cargo >/dev/null || skip "there is no cargo"
if "$python" -m maturin --version >/dev/null 2>&1; then
    maturin=("$python" -m maturin)
elif command -v maturin >/dev/null; then
    maturin=(maturin)
else
    skip "maturin is not installed"
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv" >/dev/null 2>&1 || skip "Python cannot make an environment"

# Beside links to what it names, so that nothing is written into the repository.
project=$scratch/project
mkdir "$project"
ln -s "$repository"/{README.md,LICENSE-MIT,LICENSE-APACHE} "$project/"
sed "s|^manifest-path = .*|manifest-path = \"$repository/welore-cli/Cargo.toml\"|" \
    "$repository/pyproject.toml" >"$project/pyproject.toml"
"$repository/packaging/share.sh" "$project/welore-cli.data/data" "$binary"

# Compressing takes longer than everything else.
build=(--locked --compression-method stored --out "$scratch/wheels" --profile "${WELORE_PROFILE:-dev}")
if [ "${WELORE_WHEEL_BUILD:-}" = 1 ]; then
    [ -z "${WELORE_FEATURES:-}" ] || build+=(--features "$WELORE_FEATURES")
else
    # Stands for cargo, whose answer to a build is that of one that built BINARY.
    mkdir "$scratch/cargo"
    # A copy, because maturin moves what was built into the target directory.
    cp "$binary" "$scratch/cargo/welore-cli"
    export CARGO_TARGET_DIR=$scratch/target
    cargo=$(command -v cargo)
    "$cargo" metadata --no-deps --format-version 1 --manifest-path "$repository/Cargo.toml" |
        "$python" -c '
import json, sys
packages = json.load(sys.stdin)["packages"]
package = next(package for package in packages if package["name"] == "welore-cli")
target = next(target for target in package["targets"] if target["kind"] == ["bin"])
print(json.dumps({
    "reason": "compiler-artifact", "package_id": package["id"],
    "manifest_path": package["manifest_path"], "target": target,
    "profile": {"opt_level": "0", "debuginfo": 0, "debug_assertions": False,
                "overflow_checks": False, "test": False},
    "features": [], "filenames": [sys.argv[1]], "executable": sys.argv[1], "fresh": True,
}))
print(json.dumps({"reason": "build-finished", "success": True}))
' "$scratch/cargo/welore-cli" >"$scratch/cargo/built"
    cat >"$scratch/cargo/cargo" <<EOF
#!/bin/sh
case \$1 in
    rustc) cat "$scratch/cargo/built" ;;
    *) exec "$cargo" "\$@" ;;
esac
EOF
    chmod +x "$scratch/cargo/cargo"
    export PATH=$scratch/cargo:$PATH CARGO=$scratch/cargo/cargo
fi
(cd "$project" && "${maturin[@]}" build "${build[@]}") >"$scratch/log" 2>&1 || {
    cat "$scratch/log" >&2
    fail "maturin failed"
}
wheel=$(echo "$scratch"/wheels/*.whl)
[ -f "$wheel" ] || fail "maturin wrote no wheel"
echo "wheel: $("${maturin[@]}" --version) packed $(basename "$wheel"), $(du -h "$wheel" | cut -f1)"

"$scratch/venv/bin/python" -m pip install --quiet --no-index --disable-pip-version-check "$wheel"
installed=$scratch/venv/bin/welore-cli
[ "$("$installed" --version)" = "$("$binary" --version)" ] || fail "another version is installed"
"$installed" devices >/dev/null || fail "the installed program does not run"
for file in man/man1/welore-cli.1 man/man1/welore-cli-compress.1 \
    bash-completion/completions/welore-cli zsh/site-functions/_welore-cli \
    fish/vendor_completions.d/welore-cli.fish; do
    [ -s "$scratch/venv/share/$file" ] || fail "share/$file is not in the wheel"
done
"$scratch/venv/bin/python" -c '
import importlib.metadata as metadata
found = metadata.metadata("welore-cli")
assert found["License-Expression"] == "MIT OR Apache-2.0", found["License-Expression"]
assert found["Requires-Python"] == ">=3.9", found["Requires-Python"]
assert "low-rank" in found["Keywords"], found["Keywords"]
' || fail "its metadata is not that of pyproject.toml"
echo "wheel: installed by pip: $("$installed" --version) runs, with manual pages and completions"
