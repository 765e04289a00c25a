#!/usr/bin/env bash
# The distributed shape on this machine: a process for each service, two of webhook and of flow-engine, the gateway on
# 127.0.0.1:8080. What ends is said and started again.
#   deploy/cluster.sh <flowmate binary>        ends all of them when it ends (Ctrl-C)
# Needs `make services-up`. CLUSTER_PORT: the gateway's port; services take those after it. CLUSTER_ID: which database and
# topics, `local` where nothing is said. CLUSTER_REPLICAS: how many of webhook and flow-engine, 2 where nothing is said.
set -euo pipefail
binary=$(realpath "${1:?the flowmate binary}")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=${CLUSTER_PORT:-8080}
id=${CLUSTER_ID:-local}
replicas=${CLUSTER_REPLICAS:-2}
run=$(cd "$here/.." && pwd)/.run/cluster/$id
mkdir -p "$run"

export FLOWMATE__STORAGE__URL=${FLOWMATE__STORAGE__URL:-mongodb://127.0.0.1:27117/flowmate_$id?directConnection=true}
export FLOWMATE__BUS__URL=${FLOWMATE__BUS__URL:-kafka://127.0.0.1:19092}
# Receivers to try it with are on the same machine.
export FLOWMATE__CONNECTORS__PRIVATE_TARGETS=${FLOWMATE__CONNECTORS__PRIVATE_TARGETS:-127.0.0.0/8}
export FLOWMATE__BUS__PREFIX=flowmate.$id.
export FLOWMATE__SERVICES__SECRET=${FLOWMATE__SERVICES__SECRET:-for-one-machine-only-0123456789abcdef}
export FLOWMATE__ADMIN__PASSWORD=${FLOWMATE__ADMIN__PASSWORD:-for one machine only}
export FLOWMATE__IAM__KEY_DIRECTORY=${FLOWMATE__IAM__KEY_DIRECTORY:-$run/keys}

# Each process by its name in the logs, the service that it is and its port.
names=() roles=() ports=()
add() { names+=("$1"); roles+=("$2"); ports+=($((port + ${#ports[@]}))); }
add api-gateway api-gateway
for service in user-iam flow-repository template-repository webhook execution-log flow-engine; do
  count=1
  case $service in webhook | flow-engine) count=$replicas ;; esac
  addresses=
  for number in $(seq "$count"); do
    if [ "$number" = 1 ]; then name=$service; else name=$service-$number; fi
    add "$name" "$service"
    addresses+=,http://127.0.0.1:${ports[-1]}
  done
  key=${service//-/_}
  export "FLOWMATE__SERVICES__${key^^}=${addresses#,}"
done

# Whoever answers on one of these ports is none of ours, and would look like it.
for index in "${!names[@]}"; do
  if (exec 3<>"/dev/tcp/127.0.0.1/${ports[index]}") 2>/dev/null; then
    echo "Port ${ports[index]} (${names[index]}) is taken; CLUSTER_PORT=… chooses others" >&2
    exit 1
  fi
done

"$binary" key "$FLOWMATE__IAM__KEY_DIRECTORY"
"$binary" topics --partitions 4 --replication 1 ||
  { echo "Is there a Kafka at $FLOWMATE__BUS__URL? \`make services-up\` starts one" >&2; exit 1; }

pids=() began=()
trap 'kill "${pids[@]}" 2>/dev/null; wait' EXIT
start() {
  FLOWMATE__HTTP__LISTEN=127.0.0.1:${ports[$1]} "$binary" "${roles[$1]}" >> "$run/${names[$1]}.log" 2>&1 &
  pids[$1]=$! began[$1]=$SECONDS
}
# Says what ended and starts it again; one that cannot stay up for ten seconds ends the whole.
look() {
  local index status
  for index in "${!names[@]}"; do
    kill -0 "${pids[index]}" 2>/dev/null && continue
    status=0
    wait "${pids[index]}" || status=$?
    echo "${names[index]} ended with status $status; the last it said ($run/${names[index]}.log):" >&2
    tail -n 3 "$run/${names[index]}.log" >&2
    if [ $((SECONDS - began[index])) -lt 10 ]; then
      echo "${names[index]} does not stay up: ending" >&2
      exit 1
    fi
    start "$index"
    echo "${names[index]} is started again" >&2
  done
}
for index in "${!names[@]}"; do : > "$run/${names[index]}.log"; start "$index"; done

until curl -sf "http://127.0.0.1:$port/healthcheck" > /dev/null; do
  look
  sleep 0.2
done
echo "FlowMate is ready: http://127.0.0.1:$port, admin, password: $FLOWMATE__ADMIN__PASSWORD (at the first start)"
echo "Replicas of webhook and flow-engine: $replicas each. Logs: $run"
while true; do
  sleep 1 &
  wait $! || true
  look
done
