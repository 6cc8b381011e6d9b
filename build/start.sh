#!/bin/sh
# npm run build [-- --check], npm run release: starts a program of this folder on any Node we support;
# Node 20 can't run TypeScript itself. build/start.sh PROGRAM.ts [ARGUMENT…]
set -eu
cd "$(dirname "$0")/.."
if [ ! -x node_modules/.bin/esbuild ]; then
  echo "build/$1: no esbuild here: run \"npm ci\" first" >&2
  exit 1
fi
program=$(node_modules/.bin/esbuild "build/$1" --bundle --packages=external --platform=node --format=esm --target=node18 --log-level=warning)
shift
printf '%s\n' "$program" | node --input-type=module - "$@"
