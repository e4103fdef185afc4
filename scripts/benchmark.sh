#!/usr/bin/env bash
# The benchmark, unattended: a run, its report into the docs, and the study of kept checkpoints.
#
#   scripts/benchmark.sh [DIR] [OPTION...]     options of `pcs bench run` go after DIR, in place of the usual
#
# The same command goes on after an interruption. What fails is a row of the report and makes the exit code 3.
# STUDY= leaves the study out; STUDY="--limit 4 ..." gives it other options. DOCS= says where reports go.
set -uo pipefail
cd "$(dirname "$0")/.."

pcs="${PCS:-.venv/bin/pcs}"
out="${1:-build/benchmark}"
shift || true
suite="${SUITE:-mini-object}"
docs="${DOCS-docs/comparison}"
study="${STUDY---prompts 6 --seeds 2 --set tune.steps=500}"
if [ $# -eq 0 ]; then
  set -- --systems loads --limit 4 --prompts 10 --seeds 2
fi
# a core each for the workers: threads of one would slow the other
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

started=$SECONDS
code=0
# a run that the system ended (memory, a signal) is begun again: it goes on where it was
for _ in 1 2 3; do
  "$pcs" bench run "$suite" --out "$out/run" "$@"
  code=$?
  case $code in 0 | 2 | 3) break ;; esac
done
[ "$code" -eq 2 ] && exit 2
echo "run: $(((SECONDS - started) / 60)) minutes, exit code $code" >&2

"$pcs" bench report "$out/run" ${docs:+--to "$docs"} || exit $?
if [ -n "$study" ]; then
  # shellcheck disable=SC2086
  "$pcs" bench watch "$suite" --out "$out/watch" $study || code=$?
  [ -n "$docs" ] && cp "$out/watch/watch.json" "$docs/watch.json"
fi
exit "$code"
