#!/usr/bin/env bash
# Personalise a shipped subject with the embedded backbone and draw it in two places.
# SUBJECT, SYSTEM and OUT may be set; what is already fitted is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

system=${SYSTEM:-lora-dreambooth}
out=${OUT:-demo}
subjects=plugins/pcs-mini/pcs_mini/subjects

if [[ -z ${SUBJECT:-} ]]; then
    first=$(find "$subjects" -mindepth 2 -maxdepth 2 -name subject.toml 2>/dev/null | sort | head -n 1)
    if [[ -z $first ]]; then
        echo "demo: no shipped subject under $subjects" >&2
        exit 2
    fi
    SUBJECT=$(dirname "$first")
fi
name=$(basename "$SUBJECT")
read -r token noun < <(python - "$SUBJECT/subject.toml" <<'PY'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    concept = tomllib.load(file)["concept"][0]
print(concept["token"], concept["noun"])
PY
)

fitted="$out/$name-$system"
mkdir -p "$out"
if [[ -e $fitted ]]; then
    echo "keeping $fitted (make clean removes it)"
elif [[ -e $fitted.partial ]]; then
    pcs fit "$system" "$SUBJECT" --backbone mini --resume --out "$fitted"
else
    pcs fit "$system" "$SUBJECT" --backbone mini --out "$fitted"
fi

index=0
for place in "on the beach" "on a red background"; do
    index=$((index + 1))
    pcs sample "$fitted" "$token $noun $place" -n 4 --seed 0 --overwrite --out "$out/$name-$index"
done

echo
echo "the references:  $SUBJECT"
echo "the pictures:    $PWD/$out/$name-1/sheet.png  (\"$token $noun on the beach\")"
echo "                 $PWD/$out/$name-2/sheet.png  (\"$token $noun on a red background\")"
