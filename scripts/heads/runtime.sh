# shellcheck shell=sh
# What every head shares: finding a JavaScript runtime without starting a process for it, and
# becoming it. Included by a line `. ./runtime.sh`, which build/bundle.ts replaces with this text.
# Variables begin with nix_lan_: any that happened to be in the environment would otherwise reach
# the programs that a head starts.

# Where to find a runtime when PATH is a daemon's and has none.
nix_lan_directories=/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin

# find_program NAME...: sets nix_lan_found to the first of the programs, by directory (PATH, then
# those above), then by name. Fails when there is none. Skips relative entries of PATH: nobody chose
# a daemon's working directory.
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

# The runtime, if known beforehand: nix/package.nix writes an absolute path between the quotes.
nix_lan_pinned=''

# find_runtime: sets nix_lan_found to the pinned runtime, or else to the first one found. Fails when
# there is none.
find_runtime() {
  nix_lan_found=$nix_lan_pinned
  if [ -x "$nix_lan_found" ]; then return 0; fi
  find_program node deno bun
}

# become_javascript ARGUMENT...: replaces the shell with this file's JavaScript, in the runtime that
# was found. Leaves out whatever would make a runtime load or ask for more: variables
# (NODE_EXTRA_CA_CERTS costs 30-45 ms), and what Deno and Bun pick up in the working directory: Bun
# would run the `preload` of a bunfig.toml there, and put its .env into the environment.
become_javascript() {
  unset NODE_OPTIONS NODE_EXTRA_CA_CERTS BUN_OPTIONS
  case $nix_lan_found in
    *[/]deno) exec "$nix_lan_found" run --quiet --allow-all --no-config --no-lock "$0" "$@" ;;
    *[/]bun) exec "$nix_lan_found" --config=/dev/null --env-file=/dev/null "$0" "$@" ;;
    *) exec "$nix_lan_found" "$0" "$@" ;;
  esac
}
