#!/usr/bin/env bash
# Score $CANDIDATE on $TASKS (unless it is a stored run), gate it against $BASELINE, and exit with the gate's code.
# Used by action.yml and docs/gitlab-gate.yml. Writes gate.md, gate.xml and, on GitHub, annotations, the step summary and outputs.
set -euo pipefail

run=$CANDIDATE
if [ -n "${TASKS:-}" ]; then
  assay run --model "$CANDIDATE" --tasks "$TASKS" --json > run.json
  run=$(python3 -c 'import json; print(json.load(open("run.json"))["run"])')
fi

options=(--markdown gate.md --junit gate.xml)
[ -n "${POLICY:-}" ] && options+=(--policy "$POLICY")
[ -n "${GITHUB_ACTIONS:-}" ] && options+=(--github)
code=0
# shellcheck disable=SC2086  # ARGUMENTS holds several options
assay gate "$run" --baseline "$BASELINE" "${options[@]}" ${ARGUMENTS:-} || code=$?

case $code in
  0) verdict=pass ;;
  10) verdict=regressed ;;
  11) verdict=inconclusive ;;
  *) verdict="" ;;
esac
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  printf 'verdict=%s\ncode=%s\n' "$verdict" "$code" >> "$GITHUB_OUTPUT"
fi
exit "$code"
