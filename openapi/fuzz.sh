#!/usr/bin/env bash
# Looks for answers that the specification does not describe:  openapi/fuzz.sh <url> <token>
# Generates requests, good and bad, for every operation. FUZZ_EXAMPLES: how many for each; FUZZ_SEED: which.
# One worker: with several, the parser of Python 3.11 fails now and then (AST constructor recursion depth mismatch).
# Needs what deploy/tools.sh installs. The rules are in fuzz.toml.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
url=${1:?the URL of a server}
token=${2:?a token}
tools=${FLOWMATE_TOOLS:-${HOME:-/root}/.cache/flowmate/tools}
exec env PATH="$tools/python/bin:$PATH" PYTHONPATH="$here" SCHEMATHESIS_HOOKS=fuzz_hooks schemathesis --config-file "$here/fuzz.toml" run "$here/flowmate.json" \
  --url "$url" --header "Authorization: Bearer $token" \
  --max-examples "${FUZZ_EXAMPLES:-8}" --seed "${FUZZ_SEED:-1}" --workers 1
