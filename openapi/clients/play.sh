#!/usr/bin/env bash
# Generates a client and plays the main story with it:  openapi/clients/play.sh <language> <url> <password>
# Logs in as admin, makes a template, a flow from it, starts it, sends a webhook, waits for the execution, stops and
# deletes the flow. Works in CLIENTS_DIR, which may be kept between runs; the package managers keep what they download.
# Needs what deploy/tools.sh installs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
language=${1:?language: typescript, python, java, go or rust}
url=${2:?the URL of a server}
password=${3:?the password of its administrator}
tools=${FLOWMATE_TOOLS:-${HOME:-/root}/.cache/flowmate/tools}
work=${CLIENTS_DIR:-$(mktemp -d)}/$language
export PATH=$tools/python/bin:$tools/node/node_modules/.bin:$PATH
mkdir -p "$work"
cp -r "$here/$language/." "$work/"
cd "$work"
"$here/generate.sh" "$language" "$work/client"

case $language in
  typescript)
    ln -sfn "$tools/node/node_modules" node_modules
    tsc
    exec node build/story.js "$url" "$password"
    ;;
  python)
    pip install --quiet --disable-pip-version-check -r client/requirements.txt
    exec env PYTHONPATH="$work/client" python story.py "$url" "$password"
    ;;
  java)
    cp Story.java client/src/main/java/
    cd client
    mvn -q -B compile dependency:build-classpath -Dmdep.outputFile=classpath -DskipTests
    exec java -cp "target/classes:$(cat classpath)" Story "$url" "$password"
    ;;
  go)
    go mod tidy
    go build -o story .
    exec ./story "$url" "$password"
    ;;
  rust)
    export CARGO_TARGET_DIR=$work/target
    cargo build --quiet
    exec target/debug/story "$url" "$password"
    ;;
esac
