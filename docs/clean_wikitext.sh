#!/bin/sh
# WikiText as people write it, for tuning a model that is to be used: without sentences that have
# <unk>, and with `@-@` and spaces around punctuation undone. One sentence per line.
#
# usage: docs/clean_wikitext.sh wikitext2/valid.txt > valid.txt
sed 's/ \. /\n/g' "$1" |
    grep -v -e '<unk>' -e '^ *=' |
    sed -E "s/ @([-,.])@ /\1/g; s/ ([,.;:?!)]|'s|n't)/\1/g; s/\( /(/g; s/\" ([^\"]*) \"/\"\1\"/g; s/([^. ])\$/\1./; s/^ +//; s/ +\$//" |
    grep '[a-z]'
