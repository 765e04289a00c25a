#!/usr/bin/env bash
# All tests: everything once, and the stories again in the distributed shape, on a real Kafka and a MongoDB stand-in. Starts
# those where they do not run, and stops what it started. Where they cannot be had, that is said loudly; with CI set, which
# is what .ci/run does, it is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
services=deploy/services/services.sh

if [ "$($services status | grep -c ' runs')" -lt 2 ]; then
  trap '$services down' EXIT
  if ! $services up; then
    echo
    echo "NOT RUN: the distributed shape. It needs Java 17 with Maven, and Python 3 with venv."
    echo
    [ -z "${CI:-}" ] || exit 1
    cargo test --workspace --all-targets
    exit
  fi
fi

cargo test --workspace --all-targets
echo
echo "The same stories in the distributed shape: a process for each service, Kafka, MongoDB"
# What is about the binary and the specification itself is the same there.
FLOWMATE_TEST_SHAPE=distributed cargo test -p flowmate --test it -- \
  --skip configuration:: --skip specification:: --skip clients::a_ --skip clients::the_linter
