#!/usr/bin/env bash
# Stops one user's nix-lan units. The NixOS module's nix-lan-user-units.service runs it as root when
# it stops, which is when a switch removes nix-lan from the configuration. Never touches the queue
# or the key, and never fails the switch.
#     stop.sh USER
set -u
uid=$(id -u "$1") || exit 0
home=/run/user/$uid

if [ ! -e "$home/systemd/private" ]; then exit 0; fi # the user's systemd isn't running
if [ "$(systemctl is-system-running)" = stopping ]; then exit 0; fi # it stops by itself

# Runs as the user: root doesn't talk to a socket in a user's folder.
units() {
  setpriv --reuid="$uid" --regid="$(id -g "$uid")" --init-groups --reset-env \
    env XDG_RUNTIME_DIR="$home" systemctl --user "$@"
}

# All of this takes a minute at most (TimeoutStopSec=20, half a minute, TimeoutStopSec=10).
# As patterns: the stop of a unit that isn't there fails for all on systemd 262.
units stop 'nix-lan-check*' 'nix-lan-network*' 'nix-lan-built@*' 'nix-lan-upload@*' 'nix-lan-gc@*'
# Fetches in progress get half a minute to finish. New builds start without the box meanwhile.
for _ in $(seq 30); do
  pgrep -f '/nix-lan-connect .*/nix-lan/' >/dev/null || break
  sleep 1
done
units stop 'nix-lan@*.target' 'nix-lan-tunnel@*.service'
units reset-failed 'nix-lan*'
exit 0
