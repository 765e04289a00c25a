#!/usr/bin/env bash
# Generates a client and plays the main story with it:  openapi/clients/play.sh <language> <url> <password>
# Logs in as admin, makes a template, a flow from it, starts it, sends a webhook, waits for the execution, stops and
# deletes the flow. Works in CLIENTS_DIR, which may be kept between runs; MAVEN and npm keep what they download.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
language=${1:?language: typescript, python, java, go or rust}
url=${2:?the URL of a server}
password=${3:?the password of its administrator}
work=${CLIENTS_DIR:-$(mktemp -d)}/$language
mkdir -p "$work"
cp -r "$here/$language/." "$work/"
cd "$work"

case $language in
  typescript)
    [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --silent
    "$here/generate.sh" typescript "$work/client"
    npx tsc
    exec node build/story.js "$url" "$password"
    ;;
  python)
    "$here/generate.sh" python "$work/client"
    pip install --quiet --disable-pip-version-check -r client/requirements.txt
    exec env PYTHONPATH="$work/client" python story.py "$url" "$password"
    ;;
  java)
    "$here/generate.sh" java "$work/client"
    cp Story.java client/src/main/java/
    cd client
    mvn -q -B compile dependency:build-classpath -Dmdep.outputFile=classpath -DskipTests
    exec java -cp "target/classes:$(cat classpath)" Story "$url" "$password"
    ;;
  go)
    "$here/generate.sh" go "$work/client"
    go mod tidy
    go build -o story .
    exec ./story "$url" "$password"
    ;;
  rust)
    "$here/generate.sh" rust "$work/client"
    CARGO_TARGET_DIR=$work/target cargo build --quiet
    exec target/debug/story "$url" "$password"
    ;;
esac
