#!/bin/sh
# The head of an ordinary command: becomes its JavaScript.
. ./runtime.sh

if find_runtime; then become_javascript "$@"; fi
echo "${0##*[/]}: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun" >&2
exit 127
