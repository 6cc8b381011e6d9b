#!/bin/sh
# npm run bench [-- OPTION… NAME…]: what nix-lan costs, side by side with what one would use
# instead. See test/bench/main.ts.
set -eu
cd "$(dirname "$0")/../.."
if [ -z "$(find node_modules/.package-lock.json -newer package-lock.json 2>/dev/null)" ]; then
  echo 'npm ci: node_modules is missing or older than package-lock.json' >&2
  npm ci --no-audit --no-fund --loglevel=error </dev/null >&2
  touch node_modules/.package-lock.json
fi
unset NODE_EXTRA_CA_CERTS NODE_OPTIONS # each start of Node would take 30 ms and more
# in node_modules, so that what is external there is found
out=node_modules/.nix-lan-bench-$$
trap 'rm -rf "$out"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
node_modules/.bin/esbuild test/bench/main.ts --bundle --platform=node --format=esm --target=node18 --packages=external \
  --sourcemap=inline --log-level=warning --outfile="$out/main.mjs" >&2
# the first two: see scripts/heads/runtime.sh
node --no-concurrent-recompilation --no-concurrent-sparkplug --enable-source-maps "$out/main.mjs" "$@" </dev/null
