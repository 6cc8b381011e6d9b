#!/bin/sh
# The head of a command that becomes another program (nix-lan-tunnel: ssh), so that nothing stays in memory while that runs.
. ./runtime.sh
. ./plan.sh

if find_runtime; then follow_javascript "$@"; fi
echo "${0##*[/]}: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun" >&2
exit 127
