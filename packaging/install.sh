#!/bin/sh
# Installs a built welore-cli with its manual pages and completions below PREFIX:
#     packaging/install.sh PREFIX BINARY
#     packaging/install.sh "$HOME/.local" target/release/welore-cli
# A package is made the same way: packaging/install.sh "$DESTDIR/usr" target/release/welore-cli
set -eu
if [ $# -ne 2 ]; then
    echo "usage: $0 PREFIX BINARY" >&2
    exit 2
fi
prefix=$1
binary=$2
if [ ! -f "$binary" ] || [ ! -x "$binary" ]; then
    echo "$0: $binary is not a program" >&2
    exit 2
fi
case $binary in */*) ;; *) binary=./$binary ;; esac
"$(dirname "$0")/share.sh" "$prefix" "$binary"
mkdir -p "$prefix/bin"
# Beside the old one first: a program that runs cannot be overwritten, only replaced.
cp "$binary" "$prefix/bin/.welore-cli.new"
chmod 755 "$prefix/bin/.welore-cli.new"
mv -f "$prefix/bin/.welore-cli.new" "$prefix/bin/welore-cli"
