#!/usr/bin/env bash
# Personalise a shipped subject with the embedded backbone and draw it in two places.
# SUBJECT (a folder with a subject.toml), SYSTEM and OUT may be set.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

system=${SYSTEM:-lora-dreambooth}
out=${OUT:-$PWD/demo}
subjects=plugins/pcs-mini/pcs_mini/subjects

if [[ -z ${SUBJECT:-} ]]; then
    first=$subjects/dog_pug/subject.toml
    [[ -e $first ]] || first=$(find "$subjects" -mindepth 2 -maxdepth 2 -name subject.toml 2>/dev/null | sort | head -n 1)
    if [[ -z $first ]]; then
        echo "demo: no shipped subject under $subjects" >&2
        exit 2
    fi
    SUBJECT=$(dirname "$first")
fi
name=$(basename "$SUBJECT")
token=$(python -c '
import sys, tomllib
print(tomllib.load(open(sys.argv[1], "rb"))["concept"][0]["token"])' "$SUBJECT/subject.toml")

fitted="$out/$name-$system"
mkdir -p "$out"
rm -rf "$fitted.partial"
pcs fit "$system" "$SUBJECT" --backbone mini --overwrite --out "$fitted"

index=0
for place in "on the beach" "on a red background"; do
    index=$((index + 1))
    pcs sample "$fitted" "a picture of $token $place" -n 4 --seed 0 --overwrite --out "$out/$name-$index"
done

echo
echo "the references:  $SUBJECT"
echo "the pictures:    $out/$name-1/sheet.png  (\"a picture of $token on the beach\")"
echo "                 $out/$name-2/sheet.png  (\"a picture of $token on a red background\")"
