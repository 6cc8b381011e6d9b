# shellcheck shell=sh
# What every head shares: finding a JavaScript runtime without starting anything for it, and
# becoming it. Included by a line `. ./runtime.sh`, which build/bundle.ts replaces by this text.
# Variables begin with nix_lan_, since one that was in the environment would otherwise reach the
# programs that a head starts.

# Where a runtime lies when PATH is a daemon's and has none.
nix_lan_directories=/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin

# find_program NAME...: sets nix_lan_found to the first of the programs, by directory (PATH, then
# those above), then by name. No program: fails. Relative entries of PATH are left out: a daemon's
# directory is nobody's choice.
find_program() {
  IFS=:
  set -f
  for nix_lan_directory in $PATH $nix_lan_directories; do
    for nix_lan_name in "$@"; do
      nix_lan_found=$nix_lan_directory/$nix_lan_name
      case $nix_lan_found in
        /*) if [ -x "$nix_lan_found" ] && [ -f "$nix_lan_found" ]; then set +f; unset IFS; return 0; fi ;;
      esac
    done
  done
  set +f
  unset IFS
  return 1
}

# The runtime, where it is known beforehand: nix/package.nix writes an absolute path between the
# quotes.
nix_lan_pinned=''

# find_runtime: sets nix_lan_found to the pinned runtime, or else to the first that there is. None:
# fails.
find_runtime() {
  nix_lan_found=$nix_lan_pinned
  if [ -x "$nix_lan_found" ]; then return 0; fi
  find_program node deno bun
}

# become_javascript ARGUMENT...: replaces the shell by the JavaScript of this file, in the runtime
# that was found. Left out is what would make a runtime load or ask for more: variables
# (NODE_EXTRA_CA_CERTS costs 30-45 ms), and what Deno and Bun take from the directory they are
# started in: Bun would run the `preload` of a bunfig.toml there, and put its .env into the
# environment.
become_javascript() {
  unset NODE_OPTIONS NODE_EXTRA_CA_CERTS BUN_OPTIONS
  case $nix_lan_found in
    *[/]deno) exec "$nix_lan_found" run --quiet --allow-all --no-config --no-lock "$0" "$@" ;;
    *[/]bun) exec "$nix_lan_found" --config=/dev/null --env-file=/dev/null "$0" "$@" ;;
    *) exec "$nix_lan_found" "$0" "$@" ;;
  esac
}
