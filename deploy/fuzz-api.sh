#!/usr/bin/env bash
# Starts a fresh server and lets schemathesis look for answers that the specification does not describe, once as
# administrator and once as an end user:  deploy/fuzz-api.sh <flowmate binary>
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary=$(realpath "${1:?the flowmate binary}")
work=$(mktemp -d)
cd "$work"
export FUZZ_EXAMPLES=${FUZZ_EXAMPLES:-200} FUZZ_SEED=${FUZZ_SEED:-$RANDOM}
url=http://127.0.0.1:${FUZZ_PORT:-18099}

env FLOWMATE__DATA__DIR="$work/data" FLOWMATE__HTTP__LISTEN="${url#http://}" FLOWMATE__ADMIN__PASSWORD=fuzz \
  FLOWMATE__WEBHOOK__NOT_FOUND_DELAY_MS=1 FLOWMATE__LOG__FILTER=warn "$binary" > server.log 2>&1 &
server=$!
trap 'kill $server; wait $server || true; rm -rf "$work"' EXIT
until curl -sf "$url/health/ready" > /dev/null; do
  kill -0 $server || { cat server.log; exit 1; }
  sleep 0.1
done

post() { curl -sf "$url$1" -H 'content-type: application/json' ${3:+-H "authorization: Bearer $3"} -d "$2"; }
token() { sed 's/.*"token":"\([^"]*\)".*/\1/'; }
admin=$(post /login '{"username":"admin","password":"fuzz"}' | token)
echo "As administrator, seed $FUZZ_SEED, $FUZZ_EXAMPLES examples for each operation"
"$here/../openapi/fuzz.sh" "$url" "$admin"
echo "As end user"
user=$(post /impersonate '{"username":"fuzz-user"}' "$admin" | token)
"$here/../openapi/fuzz.sh" "$url" "$user"
