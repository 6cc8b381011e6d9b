#!/bin/sh
# npm run test:runtimes [-- RUNTIME…]: the contracts of the executables in every runtime that
# nix-lan is for, and the sources unbundled in those that can read TypeScript. The runtimes come
# from npm, into a cache folder (build/runtimes.sh); the tests themselves stay on the Node that is
# here. The last line sums them all: N passed, N failed.
set -u
cd "$(dirname "$0")/.." || exit
. build/runtimes.sh

log=$(mktemp) || exit
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
passed=0
failed=0
skipped=0

# count LINE: adds up "N passed, N failed[, N skipped]"; any other line is a failure.
count() {
  case $1 in
    [0-9]*' passed, '*' failed'*) ;;
    *) failed=$((failed + 1)); return ;;
  esac
  rest=${1#* passed, }
  passed=$((passed + ${1%% *}))
  failed=$((failed + ${rest%% *}))
  case $rest in *', '*' skipped') rest=${rest#*, }; skipped=$((skipped + ${rest%% *})) ;; esac
}

# unbundled PROGRAM ARGUMENT…: a source runs as it is.
unbundled() {
  expected="nix-lan-available $(node -p 'require("./package.json").version')"
  if [ "$("$@" scripts/bin/nix-lan-available.ts --version)" = "$expected" ]; then
    echo 'ok      scripts/bin/nix-lan-available.ts, unbundled'
    count '1 passed, 0 failed'
  else
    echo "FAILED  scripts/bin/nix-lan-available.ts, unbundled: expected $expected"
    count '0 passed, 1 failed'
  fi
}

if [ $# -eq 0 ]; then set -- node-18.19.0 node-18 node-20 node-22 node-24 node-26 deno-2 bun-1; fi
for runtime in "$@"; do
  name=${runtime%%-*}
  if ! directory=$(runtime_directory "$runtime"); then
    count '0 passed, 1 failed'
    continue
  fi
  echo "== $name $("$directory/$name" --version | head -n 1)"
  NIX_LAN_TEST_RUNTIME=$directory sh test/test.sh test/dist/ 2>&1 | tee "$log"
  count "$(tail -n 1 "$log")"
  case $runtime in
    deno-*) unbundled "$directory/deno" run --quiet --allow-all ;;
    bun-* | node-22 | node-24 | node-26) unbundled "$directory/$name" ;;
  esac
done

summary="$passed passed, $failed failed"
if [ "$skipped" -gt 0 ]; then summary="$summary, $skipped skipped"; fi
echo "$summary"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
