#!/usr/bin/env bash
# Manifests of the four corpora of docs/results.md, one folder for each, as the examples take them in DATA.
#
#   bash examples/make_manifests.sh /folder/with/speech/and/teacher OUT
#
# The folder holds manifests.py, which writes the manifests and labels of the corpora that it is given.
set -euo pipefail
[ $# -eq 2 ] || { sed -n 2,6p "$0" >&2; exit 2; }
script=$1/manifests.py
out=$2
[ ! -e "$out" ] || { echo "$out is there already; give a new folder" >&2; exit 1; }
rm -rf "$out.partial"

python3 "$script" "$out.partial/all" wakeword barista librispeech digits
for corpus in wakeword digits librispeech; do python3 "$script" "$out.partial/$corpus" "$corpus"; done

# digits and wake words as words of letters, in the form of LibriSpeech's transcripts: S N O W B O Y |
letters=$out.partial/letters
python3 "$script" "$letters" wakeword digits
words=(ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE)
for split in train valid test; do
    text=$(tr 'a-z_' 'A-Z|' <"$letters/$split.keyword")
    for digit in {0..9}; do text=${text//$digit/${words[$digit]}}; done
    sed 's/./& /g; s/$/|/' <<<"$text" >"$letters/$split.ltr"
    rm "$letters/$split.keyword"
done
tr ' ' '\n' <"$letters/train.ltr" | sort | uniq -c | sort -rn | awk '{print $2, $1}' >"$letters/dict.ltr.txt"
mv "$out.partial" "$out"
