#!/usr/bin/env bash
# The distributed shape on this machine: a process for each service, the gateway on 127.0.0.1:8080.
#   deploy/cluster.sh <flowmate binary>        ends all of them when it ends (Ctrl-C)
# Needs `make services-up`. CLUSTER_PORT: the gateway's port; services take those after it. CLUSTER_ID: which database and
# topics, `local` where nothing is said.
set -euo pipefail
binary=$(realpath "${1:?the flowmate binary}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=${CLUSTER_PORT:-8080}
id=${CLUSTER_ID:-local}
run=$(cd "$here/.." && pwd)/.run/cluster/$id
mkdir -p "$run"

export FLOWMATE__STORAGE__URL=${FLOWMATE__STORAGE__URL:-mongodb://127.0.0.1:27117/flowmate_$id?directConnection=true}
export FLOWMATE__BUS__URL=${FLOWMATE__BUS__URL:-kafka://127.0.0.1:19092}
export FLOWMATE__BUS__PREFIX=flowmate.$id.
export FLOWMATE__SERVICES__SECRET=${FLOWMATE__SERVICES__SECRET:-for-one-machine-only-0123456789abcdef}
export FLOWMATE__ADMIN__PASSWORD=${FLOWMATE__ADMIN__PASSWORD:-for one machine only}
export FLOWMATE__IAM__KEY_DIRECTORY=${FLOWMATE__IAM__KEY_DIRECTORY:-$run/keys}

"$binary" key "$FLOWMATE__IAM__KEY_DIRECTORY"
"$binary" topics --partitions 4 --replication 1

services=(user-iam flow-repository template-repository webhook execution-log flow-engine)
for index in "${!services[@]}"; do
  name=${services[$index]//-/_}
  export "FLOWMATE__SERVICES__${name^^}=http://127.0.0.1:$((port + 1 + index))"
done

pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait' EXIT
start() {
  FLOWMATE__HTTP__LISTEN=127.0.0.1:$2 "$binary" "$1" > "$run/$1.log" 2>&1 &
  pids+=($!)
}
for index in "${!services[@]}"; do start "${services[$index]}" $((port + 1 + index)); done
start api-gateway "$port"

until curl -sf "http://127.0.0.1:$port/healthcheck" > /dev/null; do
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null || { echo "A service ended; see $run/*.log:" >&2; tail -n 3 "$run"/*.log >&2; exit 1; }
  done
  sleep 0.2
done
echo "FlowMate is ready: http://127.0.0.1:$port, admin, password: $FLOWMATE__ADMIN__PASSWORD (at the first start)"
echo "Logs: $run"
wait -n "${pids[@]}"
echo "A service ended; see $run" >&2
exit 1
