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
# would run the `preload` of a bunfig.toml there, and put its .env into the environment. Node gets no
# compiler threads: process.exit() waits for them, and they may wait for a garbage collection, which
# only the thread that waits can do. One of 170 uploads never ended (24.21.0; nodejs/node#54918).
become_javascript() {
  case $nix_lan_found in
    *[/]deno) set -- "$nix_lan_found" run --quiet --allow-all --no-config --no-lock "$0" "$@" ;;
    *[/]bun) set -- "$nix_lan_found" --config=/dev/null --env-file=/dev/null "$0" "$@" ;;
    *) set -- "$nix_lan_found" --no-concurrent-recompilation --no-concurrent-sparkplug "$0" "$@" ;;
  esac
  # true for root alone, and starts no process
  if [ -O / ] && [ -x /usr/bin/env ]; then become_as_root "$@"; fi
  unset NODE_OPTIONS NODE_EXTRA_CA_CERTS BUN_OPTIONS
  exec "$@"
}

# become_as_root PROGRAM ARGUMENT...: with nothing in the environment but these variables, since no
# list of what makes a runtime load code is complete. And with caches of root's: Deno and Bun run
# what they find in theirs, in HOME, which may be a user's (su, sudo -E).
become_as_root() {
  set -- DENO_DIR=/run/nix-lan/deno BUN_RUNTIME_TRANSPILER_CACHE_PATH=/run/nix-lan/bun "$@"
  for nix_lan_name in PATH HOME USER LOGNAME TERM NO_COLOR LANG LC_ALL LC_CTYPE TZ TMPDIR SUDO_USER SUDO_UID SUDO_GID \
    XDG_RUNTIME_DIR XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_STATE_HOME INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET \
    LISTEN_FDS LISTEN_FDNAMES LISTEN_PID TRIGGER_UNIT RUNTIME_DIRECTORY SSH_AUTH_SOCK SSL_CERT_FILE \
    http_proxy https_proxy all_proxy no_proxy HTTPS_PROXY OUT_PATHS DRV_PATH NIX_CONF_DIR NIX_CONFIG NIX_CONFIG_HOME \
    NIX_DAEMON_SOCKET_PATH NIX_LOG_DIR NIX_REMOTE NIX_SSHOPTS NIX_SSL_CERT_FILE NIX_STATE_DIR NIX_STORE_DIR NIX_USER_CONF_FILES \
    NIX_LAN_CALLED_AS NIX_LAN_CONFIG NIX_LAN_HEAD NIX_LAN_RUN_ASKED NIX_LAN_RUN_DEPTH NIX_LAN_WAKE; do
    eval "if [ \"\${$nix_lan_name+set}\" ]; then set -- \"$nix_lan_name=\$$nix_lan_name\" \"\$@\"; fi"
  done
  exec /usr/bin/env -i "$@"
}
