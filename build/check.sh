#!/bin/sh
# npm run check: runs every static check of the sources, and checks that dist/ is what they give.
# Runs all checks, then names those that failed. With CI=true, none may be skipped. Never changes a
# source file.
set -u
cd "$(dirname "$0")/.." || exit
. build/runtimes.sh

failed=
skipped=

# check NAME COMMAND...: runs a check and shows its output only if it fails.
check() {
  name=$1
  shift
  if output=$("$@" 2>&1); then
    echo "ok      $name"
  else
    printf '%s\n' "$output" "FAILED  $name"
    failed="$failed, $name"
  fi
}

# skip NAME WHY
skip() {
  if [ "${CI-}" = true ]; then
    echo "FAILED  $1: $2"
    failed="$failed, $1"
  else
    echo "skipped $1: $2"
    skipped="$skipped, $1"
  fi
}

if [ ! -d node_modules ]; then npm ci --no-audit --no-fund || exit; fi
export NO_COLOR=1

check tsc node_modules/.bin/tsc --project .
check biome node_modules/.bin/biome check --error-on-warnings --max-diagnostics=50

if deno=$(runtime_directory deno-2); then
  check 'deno check' "$deno/deno" check --quiet scripts build test
  check 'deno lint' "$deno/deno" lint --quiet
else
  skip deno 'could not be fetched'
fi

if command -v shellcheck >/dev/null; then
  # shellcheck disable=SC2046 # names of our own files, without spaces
  check shellcheck shellcheck --external-sources --source-path=SCRIPTDIR --source-path=. $(find scripts build test .ci nix -name '*.sh' -o -path .ci/run -o -path 'test/bench/rivals/*')
else
  skip shellcheck 'not installed'
fi

check 'dist fresh' npm run --silent build -- --check

if [ -n "$skipped" ]; then echo "skipped: ${skipped#, }"; fi
if [ -n "$failed" ]; then
  echo "failed: ${failed#, }" >&2
  exit 1
fi
