#!/usr/bin/env bash
# Installs what only tests need, once, outside the tree: FLOWMATE_TOOLS, or ~/.cache/flowmate/tools.
#   python/  openapi-generator (a jar in a wheel) and schemathesis
#   node/    the specification's linter, openapi-typescript and TypeScript
# What the machine lacks (Python, Node, Java with Maven, Go) is named; the tests that need it then say that they were not
# run, which CI takes as a failure.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
clients=$here/../openapi/clients
tools=${FLOWMATE_TOOLS:-${HOME:-/root}/.cache/flowmate/tools}
mkdir -p "$tools"

# What was installed is what the file says now.
fresh() { cmp -s "$1" "$2"; }

if python3 -c 'import venv, ensurepip' 2>/dev/null; then
  if ! fresh "$clients/requirements.txt" "$tools/python/requirements.txt"; then
    echo "Installing Python tools into $tools/python (about a minute)"
    rm -rf "$tools/python"
    python3 -m venv "$tools/python"
    "$tools/python/bin/pip" install --quiet --disable-pip-version-check -r "$clients/requirements.txt"
    cp "$clients/requirements.txt" "$tools/python/"
  fi
else
  echo "Python 3 with venv is missing (Debian: apt-get install python3-venv)"
fi

if command -v npm >/dev/null; then
  if ! fresh "$clients/typescript/package-lock.json" "$tools/node/package-lock.json"; then
    echo "Installing Node tools into $tools/node"
    rm -rf "$tools/node" "$tools/node.new"
    mkdir -p "$tools/node.new"
    cp "$clients/typescript/package.json" "$clients/typescript/package-lock.json" "$tools/node.new/"
    (cd "$tools/node.new" && npm ci --no-audit --no-fund --silent)
    mv "$tools/node.new" "$tools/node"
  fi
else
  echo "Node with npm is missing (Debian: apt-get install nodejs npm)"
fi

for tool in java:default-jdk mvn:maven go:golang; do
  command -v "${tool%%:*}" >/dev/null || echo "${tool%%:*} is missing (Debian: apt-get install ${tool##*:})"
done
