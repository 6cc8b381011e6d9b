#!/bin/sh
# The head of a command that becomes another program (nix-lan-tunnel: ssh), so no JavaScript runtime
# stays in memory while that runs.
. ./runtime.sh
. ./plan.sh

if find_runtime; then follow_javascript "$@"; fi
. ./no-runtime.sh
exit 127
