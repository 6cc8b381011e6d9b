#!/bin/sh
# The head of an ordinary command: becomes its JavaScript.
. ./runtime.sh

if find_runtime; then become_javascript "$@"; fi
. ./no-runtime.sh
exit 127
