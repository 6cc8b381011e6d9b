#!/bin/sh
# The head of nix-lan-connect. A Nix build fails when this program can't be started, so without a
# JavaScript runtime, or when that can't start, it becomes an empty store of Nix's own. With
# --strict (an upload, a person) an empty store would be a lie: exit 75, "the box is away".
. ./runtime.sh

# socat, if known beforehand: nix/package.nix writes an absolute path between the quotes.
nix_lan_socat=''

# relay CACHE: passes Nix on to the broker of a cache, while root's file says that there is one, and
# ends. Returns when nothing of what Nix says has been taken: then JavaScript goes on. By its exit
# code socat doesn't tell that from a broker that is lost later (1.7.4); by its message it does.
relay() {
  if ! [ -x "$nix_lan_socat" ]; then
    find_program socat || return 0
    nix_lan_socat=$nix_lan_found
  fi
  if ! [ -f "/run/nix-lan/$1.up" ]; then
    export NIX_LAN_WAKE=1 # for the next time
    return 0
  fi
  # -b: eight times what socat takes by default. -t 0: Nix never waits for what comes after its end.
  exec 3>&1
  nix_lan_said=$("$nix_lan_socat" -b 65536 -t 0 - "UNIX-CONNECT:/run/nix-lan/$1.sock" 2>&1 >&3 3>&-)
  nix_lan_status=$?
  case $nix_lan_status$nix_lan_said in
    1*' E connect('*) exec 3>&- ;;
    *) exit "$nix_lan_status" ;;
  esac
}

# Only as nix.conf has it: anything else is for JavaScript.
case ${1-} in
  /run/nix-lan/*.sock)
    if [ "$#$2" = 2--stdio ]; then
      nix_lan_cache=${1#/run/nix-lan/}
      relay "${nix_lan_cache%.sock}"
    fi
    ;;
esac

nix_lan_for=
for nix_lan_argument in "$@"; do
  case $nix_lan_argument in
    --strict) nix_lan_for=strict ;;
    --help | -h | --version) nix_lan_for=person ;;
    --stdio) nix_lan_for=${nix_lan_for:-nix} ;;
  esac
done

if ! find_runtime; then
  nix_lan_problem='nix-lan-connect: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun'
elif [ "$nix_lan_for" = nix ]; then
  # The runtime may be there and not start: too little memory, too few open files, a library that an
  # update has just replaced. So this shell stays, until the JavaScript says by a signal that it is
  # about to read; before that, nothing of what Nix says has been taken.
  nix_lan_reads=
  trap 'nix_lan_reads=1' USR1
  (NIX_LAN_HEAD=$$ && export NIX_LAN_HEAD && become_javascript "$@")
  nix_lan_code=$?
  case ${nix_lan_reads:-0}$nix_lan_code in 00 | 1*) exit "$nix_lan_code" ;; esac
  nix_lan_problem="nix-lan-connect: $nix_lan_found doesn't start (exit code $nix_lan_code)"
else
  become_javascript "$@"
fi

case $nix_lan_for in
  strict)
    echo "$nix_lan_problem" >&2
    exit 75
    ;;
  person)
    echo "$nix_lan_problem" >&2
    exit 127
    ;;
esac
if ! find_program nix-daemon; then
  echo "$nix_lan_problem; nor is there a nix-daemon to stand in as an empty store" >&2
  exit 127
fi
echo "$nix_lan_problem; this cache counts as empty" >&2
exec "$nix_lan_found" --stdio --store dummy://
