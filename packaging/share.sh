#!/bin/sh
# Writes manual pages and completions of a built welore-cli into DIR, as they lie below a prefix:
#     packaging/share.sh DIR BINARY
# share/man/man1, share/bash-completion/completions, share/zsh/site-functions and
# share/fish/vendor_completions.d. What is in DIR otherwise stays.
set -eu
if [ $# -ne 2 ]; then
    echo "usage: $0 DIR BINARY" >&2
    exit 2
fi
dir=$1
case $2 in */*) binary=$2 ;; *) binary=$(command -v "$2" || echo "./$2") ;; esac
"$binary" --version >/dev/null

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The settings of whoever builds a package are not read.
unset WELORE_CONFIG
"$binary" manual -o "$scratch/man1" >/dev/null
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$scratch/$shell"
done

# Everything is made before anything is written.
place() {
    mkdir -p "$(dirname "$2")"
    cp "$1" "$2"
    chmod 644 "$2"
}
for page in "$scratch"/man1/*.1; do
    place "$page" "$dir/share/man/man1/$(basename "$page")"
done
place "$scratch/bash" "$dir/share/bash-completion/completions/welore-cli"
place "$scratch/zsh" "$dir/share/zsh/site-functions/_welore-cli"
place "$scratch/fish" "$dir/share/fish/vendor_completions.d/welore-cli.fish"
