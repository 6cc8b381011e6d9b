#!/bin/sh
# Runs the ssh of a tunnel and removes its socket: ssh leaves that behind however it ends (OpenSSH 9.2: TERM, INT, HUP, lost link,
# KILL). nix-lan-tunnel becomes this (scripts/tunnel/ssh.ts) with these arguments, and then the ssh command:
#   $1 the socket
#   $2 what to say when ssh failed before it made that
#   $3 and $4 under systemd nix-lan-tunnel and the cache, else empty
#   $5 and $6 a control socket, and sh text that asks there for the forwarding; empty where ssh makes that by itself
# Signals become TERM for ssh (a background child ignores INT), and ssh's exit code is ours.
# Under systemd the helper asks through the socket, with growing pauses, until the box answers. (Not ssh's LocalCommand: the user's own
# shell runs that, whatever it is, and ssh waits for it.) After a minute without an answer it logs in anew: the groups of a user, on
# which the use of a nix-daemon may depend, are those of the login. When ssh ends without having been told to, `--ended` has the last
# word. The helper also ends by itself when ssh has: a TERM in the first moment of its life is lost, since the trap is still ours then.
# A socket that somebody listens on by then is another tunnel's, and stays (proc_pid_net(5), /proc/net/unix: flag 00010000, path last).

# What the helper says when it has ended ssh for a fresh login; nix-lan-tunnel knows it as FRESH_LOGIN.
fresh_login=75

socket=$1 hint=$2 self=$3 cache=$4 control=$5 forward=$6 pid='' stop='' told='' helper=''
shift 6
trap 'stop=1 told=1; [ -z "$pid" ] || kill "$pid" 2>/dev/null' HUP INT QUIT TERM
"$@" &
pid=$!
[ -z "$stop" ] || kill "$pid"

# wait_for SOCKET: until it is there. Fails when ssh has ended.
wait_for() {
  while ! [ -S "$1" ]; do
    kill -0 "$pid" 2>/dev/null || return
    sleep 0.1
  done
}

# end_ssh CODE: a background shell that ends ssh must not be told to end by it.
end_ssh() {
  trap '' TERM
  kill "$pid" 2>/dev/null
  exit "$1"
}

# ask_until_ready: until systemd has been told that the box answers, or ssh has been ended for a fresh login.
ask_until_ready() {
  wait_for "$socket" || return
  for pause in 0.2 0.4 0.8 1.5 3 6 12 12 12 12; do
    "$self" --ready "$cache"
    said=$?
    [ "$said" != 0 ] || return
    sleep "$pause"
  done
  if [ "$said" != 75 ]; then # it is systemd that can't be told
    until "$self" --ready "$cache"; do sleep 12; done
    return
  fi
  end_ssh $fresh_login
}

if [ -n "$self$control" ]; then
  (
    if [ -n "$control" ]; then
      wait_for "$control" || exit 0
      # What went wrong, ssh itself writes down.
      eval "$forward" >/dev/null 2>&1 || end_ssh 0
    fi
    [ -z "$self" ] || ask_until_ready
    exit 0
  ) &
  helper=$!
fi
while stop=; wait "$pid"; code=$?; [ -n "$stop" ]; do :; done
if [ -n "$helper" ]; then
  kill "$helper" 2>/dev/null
  wait "$helper" 2>/dev/null
  [ $? != $fresh_login ] || code=$fresh_login
fi
[ -n "$self" ] || [ "$code" != 255 ] || [ -S "$socket" ] || printf '%s\n' "$hint" >&2
ours=1
while read -r _ _ _ flags _ _ _ path; do
  if [ "$flags $path" = "00010000 $socket" ]; then ours=; fi
done </proc/net/unix
[ -z "$ours" ] || rm -f -- "$socket"
if [ -n "$self" ] && [ -z "$told" ]; then exec "$self" --ended "$code" "$cache"; fi
exit "$code"
