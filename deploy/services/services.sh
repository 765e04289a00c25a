#!/usr/bin/env bash
# A real Kafka and a MongoDB-compatible server for tests and for trying the distributed shape, on loopback:
#   deploy/services/services.sh up|down|status|{kill,start,pause,resume}-{kafka,mongo}
# Data and logs lie under .run/services. Ports: FLOWMATE_KAFKA_PORT (19092; the controller's is one more, the
# one with a password, flowmate and "right", two more) and FLOWMATE_MONGO_PORT (27117).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tools=${FLOWMATE_TOOLS:-${HOME:-/root}/.cache/flowmate/tools}
run=${FLOWMATE_RUN_DIR:-$here/../../.run/services}
kafka_port=${FLOWMATE_KAFKA_PORT:-19092}
mongo_port=${FLOWMATE_MONGO_PORT:-27117}
mkdir -p "$tools" "$run"
run=$(cd "$run" && pwd)

fresh() { cmp -s "$1" "$2"; }
alive() { [ -f "$run/$1.pid" ] && kill -0 "$(cat "$run/$1.pid")" 2>/dev/null; }

install_kafka() {
  fresh "$here/pom.xml" "$tools/kafka/pom.xml" && return
  command -v mvn >/dev/null || { echo "Maven is missing (Debian: apt-get install maven)" >&2; exit 1; }
  echo "Fetching Apache Kafka into $tools/kafka (45 MB, once)"
  rm -rf "$tools/kafka"
  mkdir -p "$tools/kafka"
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$tools/kafka/libs"
  cp "$here/pom.xml" "$tools/kafka/"
}

install_mongo() {
  fresh "$here/requirements.txt" "$tools/mongo/requirements.txt" && return
  python3 -c 'import venv, ensurepip' 2>/dev/null ||
    { echo "Python 3 with venv is missing (Debian: apt-get install python3-venv)" >&2; exit 1; }
  echo "Fetching a MongoDB-compatible server into $tools/mongo (once)"
  rm -rf "$tools/mongo"
  python3 -m venv "$tools/mongo"
  "$tools/mongo/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$tools/mongo/"
}

start_kafka() {
  alive kafka && return
  install_kafka
  local jars="$tools/kafka/libs/*" config=$run/kafka.properties
  local quiet=(-Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
  cat > "$config" <<CONFIG
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((kafka_port + 1))
listeners=PLAINTEXT://127.0.0.1:$kafka_port,SASL://127.0.0.1:$((kafka_port + 2)),CONTROLLER://127.0.0.1:$((kafka_port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port,SASL://127.0.0.1:$((kafka_port + 2))
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT
listener.name.sasl.sasl.enabled.mechanisms=PLAIN
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_flowmate="right";
log.dirs=$run/kafka
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.enable=false
CONFIG
  if [ ! -f "$run/kafka/meta.properties" ]; then
    java "${quiet[@]}" -cp "$jars" kafka.tools.StorageTool format --standalone \
      -t "$(java "${quiet[@]}" -cp "$jars" kafka.tools.StorageTool random-uuid)" -c "$config" > "$run/kafka-format.log" 2>&1 ||
      { cat "$run/kafka-format.log" >&2; exit 1; }
  fi
  # The quick compiler only: the thorough one takes the cores for the first minutes, which are all that tests have.
  setsid java "${quiet[@]}" -Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$jars" kafka.Kafka "$config" > "$run/kafka.log" 2>&1 < /dev/null &
  echo $! > "$run/kafka.pid"
}

start_mongo() {
  alive mongo && return
  install_mongo
  # Interpreted, so slow, and in nobody's way: what services take is on Kafka before it is here. Where sessions share the
  # cores evenly (sched(7), autogroup), `nice` counts inside one only, so the session gets it too.
  setsid sh -c '{ echo 10 > /proc/self/autogroup; } 2>/dev/null; exec nice -n 10 "$@"' sh \
    "$tools/mongo/bin/secantusd-py" --host 127.0.0.1 --port "$mongo_port" --storage-path "$run/mongo" \
    --sync-on-commit --log-level WARNING > "$run/mongo.log" 2>&1 < /dev/null &
  echo $! > "$run/mongo.pid"
}

# Ready means that it answers what clients ask first.
wait_for() {
  local name=$1 deadline=$((SECONDS + 90))
  until "answers_$name" 2>/dev/null; do
    alive "$name" || { echo "$name ended:" >&2; tail -20 "$run/$name.log" >&2; exit 1; }
    [ $SECONDS -lt $deadline ] || { echo "$name does not answer; see $run/$name.log" >&2; exit 1; }
    sleep 0.2
  done
  echo "$name answers on 127.0.0.1:$2"
}
answers_mongo() {
  "$tools/mongo/bin/python" -c "
import pymongo
pymongo.MongoClient('mongodb://127.0.0.1:$mongo_port/?directConnection=true', serverSelectionTimeoutMS=500).admin.command('ping')"
}
# ApiVersions, version 0 (KIP-35): length, key 18, version 0, correlation 7, no client id; the answer repeats the 7.
answers_kafka() {
  python3 -c "
import socket, struct
s = socket.create_connection(('127.0.0.1', $kafka_port), 1)
s.settimeout(2)
s.sendall(struct.pack('>ihhih', 10, 18, 0, 7, -1))
assert struct.unpack('>ii', s.recv(8))[1] == 7"
}

stop() {
  alive "$1" || return 0
  local pid
  pid=$(cat "$run/$1.pid")
  kill "-${2:-TERM}" "$pid"
  kill -CONT "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$run/$1.pid"
}

case ${1:-} in
  up)
    start_kafka
    start_mongo
    wait_for kafka "$kafka_port"
    wait_for mongo "$mongo_port"
    ;;
  down)
    stop kafka
    stop mongo
    rm -rf "$run"
    ;;
  status)
    for name in kafka mongo; do alive "$name" && echo "$name runs" || echo "$name does not run"; done
    ;;
  kill-kafka) stop kafka KILL ;;
  kill-mongo) stop mongo KILL ;;
  pause-kafka) kill -STOP "$(cat "$run/kafka.pid")" ;;
  pause-mongo) kill -STOP "$(cat "$run/mongo.pid")" ;;
  resume-kafka) kill -CONT "$(cat "$run/kafka.pid")" ;;
  resume-mongo) kill -CONT "$(cat "$run/mongo.pid")" ;;
  start-kafka) start_kafka && wait_for kafka "$kafka_port" ;;
  start-mongo) start_mongo && wait_for mongo "$mongo_port" ;;
  *)
    echo "usage: services.sh up|down|status|{kill,start,pause,resume}-{kafka,mongo}" >&2
    exit 2
    ;;
esac
