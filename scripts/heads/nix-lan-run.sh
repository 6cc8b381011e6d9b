#!/bin/sh
# The head of nix-lan-run: becomes the command, in the environment that its JavaScript decides on.
# Without a JavaScript runtime it still becomes the command, as if called without nix-lan-run, which
# must never keep anybody from using Nix.
. ./runtime.sh
. ./plan.sh

# next_command NAME: sets nix_lan_found to the first program of that name in PATH that isn't
# nix-lan-run itself: neither this file nor a copy of it, recognised by its second line. (The first
# line of a binary is short enough to read.)
next_command() {
  IFS=:
  set -f
  for nix_lan_directory in $PATH; do
    nix_lan_found=$nix_lan_directory/$1
    if [ -x "$nix_lan_found" ] && [ -f "$nix_lan_found" ]; then
      { read -r nix_lan_first && read -r nix_lan_second; } <"$nix_lan_found" 2>/dev/null
      case $nix_lan_first$nix_lan_second in
        '#!/bin/sh'"':' // nix-lan-run;"*) ;;
        *) set +f; unset IFS; return 0 ;;
      esac
    fi
  done
  set +f
  unset IFS
  return 1
}

if find_runtime; then follow_javascript "$@"; fi

# A symlink's name is the command; otherwise the first argument is.
nix_lan_command=${0##*[/]}
if [ "$nix_lan_command" = nix-lan-run ]; then
  if [ "${1-}" = -- ]; then shift; fi
  nix_lan_command=
  case ${1-} in
    '' | -*) ;;
    *)
      nix_lan_command=$1
      shift
      ;;
  esac
fi
if [ -z "$nix_lan_command" ]; then
. ./no-runtime.sh
exit 127
fi
case $nix_lan_command in
  *[/]*) nix_lan_found=$nix_lan_command ;;
  *)
    if ! next_command "$nix_lan_command"; then
      echo "nix-lan-run: no other $nix_lan_command in PATH" >&2
      exit 127
    fi
    ;;
esac
echo "nix-lan-run: no JavaScript runtime found, so $nix_lan_command runs with the caches of nix.conf as they are" >&2
exec "$nix_lan_found" "$@"
