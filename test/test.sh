#!/bin/sh
# npm test [-- WORD…]: every test/**/*.test.ts; or those in the folder WORD (unit: test/unit), or
# with WORD in the path. See test/main.ts. test.sh MAIN.ts [WORD…] runs another program of the
# tests, bundled: npm run test:lab and npm run lab do.
set -eu
cd "$(dirname "$0")/.."
main=test/main.ts
case ${1-} in *.ts) main=$1 && shift ;; esac
if [ -z "$(find node_modules/.package-lock.json -newer package-lock.json 2>/dev/null)" ]; then
  echo 'npm ci: node_modules is missing or older than package-lock.json' >&2
  npm ci --no-audit --no-fund --loglevel=error </dev/null >&2
  touch node_modules/.package-lock.json
fi
unset NODE_EXTRA_CA_CERTS # npm may need it; it costs each start of Node 30 ms and more
# in node_modules, so that what is external there is found
out=node_modules/.nix-lan-test-$$
trap 'rm -rf "$out"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
node_modules/.bin/esbuild "$main" --bundle --platform=node --format=esm --target=node18 --packages=external \
  --sourcemap=inline --log-level=warning --outfile="$out/main.mjs" >&2
# without compiler threads, which may keep Node from ending: see scripts/heads/runtime.sh
node() { command node --no-concurrent-recompilation --no-concurrent-sparkplug --enable-source-maps "$out/main.mjs" "$@"; }
if [ "$main" = test/lab/up.ts ]; then node "$@"; else node "$out" "$@" </dev/null; fi
