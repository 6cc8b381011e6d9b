#!/bin/sh
# npm run release: starts release.ts on any Node we support; Node 20 can't run TypeScript itself.
set -eu
cd "$(dirname "$0")/.."
if [ ! -x node_modules/.bin/esbuild ]; then
  echo 'npm run release: no esbuild here: run "npm ci" first' >&2
  exit 1
fi
program=$(node_modules/.bin/esbuild build/release.ts --bundle --packages=external --platform=node --format=esm --target=node18 --log-level=warning)
printf '%s\n' "$program" | node --input-type=module - "$@"
