#!/bin/sh
# The head of nix-lan-run: becomes the command, in the environment that its JavaScript decides. With
# no JavaScript runtime it still becomes the command, as if it had been called without nix-lan-run:
# that must never keep anybody from using Nix.
. ./runtime.sh
. ./plan.sh

# next_command NAME: sets nix_lan_found to the first program of that name in PATH that isn't
# nix-lan-run itself under that name, be it this file or another copy of it, which its second line
# tells. (The first line of a binary is short enough to read.)
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

# By a symlink's name it is that command; else the first argument is the command.
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
