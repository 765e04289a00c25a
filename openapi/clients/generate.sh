#!/usr/bin/env bash
# Generates a client from openapi/flowmate.json:  openapi/clients/generate.sh <language> <directory>
# Languages: typescript, python, java, go, rust. See docs/api.md.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
spec=$here/../flowmate.json
language=${1:?language: typescript, python, java, go or rust}
out=${2:?directory for the client}

# Documentation and empty tests are left out.
generate() {
  openapi-generator-cli generate -i "$spec" -o "$out" \
    --global-property apiDocs=false,modelDocs=false,apiTests=false,modelTests=false "$@" > "$out.log" 2>&1 ||
    { cat "$out.log" >&2; exit 1; }
}

rm -rf "$out"
mkdir -p "$out"
case $language in
  typescript) openapi-typescript "$spec" -o "$out/flowmate.ts" > "$out.log" ;;
  python) generate -g python --package-name flowmate_client ;;
  java)
    generate -g java --library native --group-id io.flowmate --artifact-id flowmate-client \
      --invoker-package io.flowmate --api-package io.flowmate.api --model-package io.flowmate.model \
      -p openApiNullable=false,hideGenerationTimestamp=true
    ;;
  go)
    generate -g go --package-name flowmate -p enumClassPrefix=true \
      --git-host example.com --git-user-id flowmate --git-repo-id client
    ;;
  rust) generate -g rust --library reqwest --package-name flowmate-client ;;
  *) echo "unknown language $language: typescript, python, java, go or rust" >&2; exit 2 ;;
esac
