#!/bin/sh
# Runs the ssh of a tunnel and removes its socket, which ssh leaves behind however it ends (OpenSSH
# 9.2: TERM, INT, HUP, lost link, KILL). nix-lan-tunnel becomes this (scripts/tunnel/attempt.ts).
# Arguments, followed by the ssh command:
#   $1        the socket
#   $2        what to say when ssh fails before it has made the socket; empty under systemd
#   $3, $4    nix-lan-tunnel and the cache
#   $5, $6    a control socket, and sh text that requests the forwarding there; empty where ssh
#             forwards on its own
#   $7        an ssh agent started for this tunnel, which ends with it, as PID:TICK (its start,
#             proc_pid_stat(5)); empty: there is none
#   $8 to $11 for uploads over their own ssh connection: socket, control socket, sh text that makes
#             the connection, sh text that requests the forwarding there; empty: they share the
#             tunnel
#
# Signals become TERM for ssh (a background child ignores INT), and ssh's exit code is ours.
#
# The helper ends an ssh that hasn't logged in after a minute: an agent may be waiting for a click
# that never comes. (ConnectTimeout only covers what comes before the login.) Under systemd the
# helper then asks through the socket, with growing pauses, until the box answers. (Not ssh's
# LocalCommand: the user's own shell runs that, and ssh waits for it.) After a minute without an
# answer it has ssh log in again: access to a nix-daemon may depend on the user's groups, which are
# fixed at login. The helper also exits on its own once ssh has: a TERM in the first moment of its
# life is lost, since our trap still applies to it then.
#
# An uploader sends USR1 to the process that CACHE.keeper names (scripts/tunnel/uploads.ts). So the
# connection for uploads is made on demand, and kept as long as the tunnel: a key may want a
# confirmation for each login.
#
# When ssh ends without having been told to, nix-lan-tunnel has the last word. If somebody listens
# on the socket by then, it belongs to another tunnel and stays (/proc/net/unix: flag 00010000, path
# last; proc_pid_net(5)).

# The helper's exit codes when it has ended ssh, for a fresh login or because ssh didn't log in;
# nix-lan-tunnel knows them as FRESH_LOGIN and LATE.
fresh_login=75
late=76

socket=$1 hint=$2 self=$3 cache=$4 control=$5 forward=$6 agent=$7 pid='' stop='' told='' helper=''
uploads=$8 uploads_control=$9 connect_uploads=${10} forward_uploads=${11} uploads_pid='' uploads_helper='' want=''
keeper=${socket%.sock}.keeper
shift 11
trap 'want=1' USR1
trap 'stop=1 told=1; [ -z "$pid" ] || kill "$pid" 2>/dev/null' HUP INT QUIT TERM
"$@" &
pid=$!
[ -z "$stop" ] || kill "$pid"

# wait_for SOCKET PID: waits until ssh PID has made SOCKET, for a minute. Fails when that ssh has
# ended.
wait_for() {
  waited=0
  while ! [ -S "$1" ]; do
    kill -0 "$2" 2>/dev/null || return
    if [ $waited -lt 50 ]; then sleep 0.1; else sleep 1; fi
    waited=$((waited + 1))
    [ $waited -lt 105 ] || end_ssh "$2" $late
  done
}

# end_ssh PID CODE: ends an ssh and this background shell. Ignores the TERM that the main shell then
# sends, which would cost us CODE.
end_ssh() {
  trap '' TERM
  kill "$1" 2>/dev/null
  exit "$2"
}

# end_agent: ends the agent, unless its PID is another process by now.
end_agent() {
  { read -r stat <"/proc/${agent%:*}/stat"; } 2>/dev/null || return
  # shellcheck disable=SC2086 # after the name in parentheses, which may hold anything, only numbers follow
  set -- ${stat##*) }
  if [ "${20}" = "${agent#*:}" ]; then kill "${agent%:*}"; fi
}

# remove FILE...: removes them, although systemd's TERM and a terminal's ^C go to each process of
# ours, one after another: a rm that we start when we have had ours may die of its own.
remove() {
  until rm -f -- "$@"; do [ $? -gt 128 ] || return; done
}

# close_uploads: ends the connection for uploads, if there is one.
close_uploads() {
  [ -n "$uploads_pid" ] || return
  kill "$uploads_pid" "$uploads_helper" 2>/dev/null
  wait "$uploads_pid" "$uploads_helper" 2>/dev/null
  remove "$uploads" "$uploads_control"
}

# open_uploads: makes that connection, replacing one that nobody listens on any more.
open_uploads() {
  close_uploads
  remove "$uploads" "$uploads_control"
  eval "exec $connect_uploads" &
  uploads_pid=$!
  { wait_for "$uploads_control" "$uploads_pid" && eval "$forward_uploads" >/dev/null; } &
  uploads_helper=$!
}

# name_keeper: records which process we are, by number and start.
name_keeper() {
  read -r stat </proc/$$/stat || return
  # shellcheck disable=SC2086 # see end_agent
  set -- ${stat##*) }
  printf '%s:%s\n' $$ "${20}" >"$keeper.$$" && mv -f -- "$keeper.$$" "$keeper"
}

# ask_until_ready: returns once systemd has been told that the box answers; ends ssh when it needs a
# fresh login.
ask_until_ready() {
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
  end_ssh "$pid" $fresh_login
}

(
  wait_for "${control:-$socket}" "$pid" || exit 0
  if [ -n "$control" ]; then
    # ssh itself logs what went wrong.
    eval "$forward" >/dev/null 2>&1 || end_ssh "$pid" 0
  fi
  [ -n "$hint" ] || ask_until_ready
  exit 0
) &
helper=$!
[ -z "$uploads" ] || name_keeper 2>/dev/null
while stop='' want=''; wait "$pid"; code=$?; [ -n "$stop$want" ]; do
  if [ -n "$want" ] && [ -n "$uploads" ] && [ -z "$told" ]; then open_uploads; fi
done
[ -z "$uploads" ] || remove "$keeper" "$keeper.$$"
# Don't ignore it: everything this becomes would inherit that.
trap : USR1
close_uploads
kill "$helper" 2>/dev/null
wait "$helper" 2>/dev/null
case $? in
  "$fresh_login") code=$fresh_login ;;
  "$late") code=$late ;;
esac
if [ -n "$hint" ] && [ "$code" = 255 ] && ! [ -S "$socket" ]; then printf '%s\n' "$hint" >&2; fi
ours=1
while read -r _ _ _ flags _ _ _ path; do
  if [ "$flags $path" = "00010000 $socket" ]; then ours=; fi
done </proc/net/unix
[ -z "$ours" ] || remove "$socket"
[ -z "$agent" ] || end_agent
if [ -z "$told" ]; then
  if [ -z "$hint" ]; then exec "$self" --ended "$code" "$cache"; fi
  if [ "$code" = "$late" ]; then exec "$self" --late "$cache"; fi
fi
exit "$code"
