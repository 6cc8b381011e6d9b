# shellcheck shell=sh
# What `nix-lan setup` asks a box: runs there, on stdin of sh, after a line that sets `socket`, the
# path of its nix-daemon's socket, and one that adds to PATH (scripts/setup/box.ts). Changes nothing.
# Each answer starts with our marker, since a login shell may print other lines.
# shellcheck disable=SC2154 # socket: see above

report() { printf 'nix-lan-box %s %s\n' "$1" "$2"; }
report user "$(id -un)"
as='' root=''
if [ "$(id -u)" = 0 ]; then root='is root'; elif sudo -n true 2>/dev/null; then root=sudo as='sudo -n'; fi
report root "${root:-no}"
report nix "$(nix-store --version 2>/dev/null || command -v nix-store)"
report nix-error "$(nix-store --version 2>&1 >/dev/null | grep -E 'configuration line|nix\.conf' | head -n 1)"
directory=${socket%/*}
if [ -S "$socket" ] && [ -w "$socket" ]; then report socket usable
elif [ -S "$socket" ] || { [ -d "$directory" ] && ! [ -x "$directory" ]; }; then
  report socket forbidden
  if [ -S "$socket" ]; then report group "$(stat -L -c %G "$socket")"; else report group "$(stat -L -c %G "$directory")"; fi
else report socket missing; fi
settings=$(nix --option extra-experimental-features nix-command config show 2>/dev/null ||
  nix --option extra-experimental-features nix-command show-config 2>/dev/null)
report keys "$(printf '%s\n' "$settings" | sed -n 's/^trusted-public-keys = //p')"
conf=/etc/nix/nix.conf
if grep -Eq '^[[:space:]]*!?include[[:space:]]+([^[:space:]]*/)?nix\.custom\.conf' "$conf" 2>/dev/null; then conf=/etc/nix/nix.custom.conf; fi
conf=$(readlink -f "$conf" 2>/dev/null || echo "$conf")
report conf "$conf"
if [ -e "$conf" ]; then report conf-exists yes; fi
writable=yes
case $conf in "$(readlink -f /nix/store)"/* | /nix/store/*) writable=no ;; esac
at=$conf
while ! [ -e "$at" ]; do
  at=${at%/*}
  [ -n "$at" ] || at=/
done
$as test -w "$at" || [ -z "$as$root" ] || writable=no
while :; do
  case $(stat -L -c '%u %A' "$at") in '0 '?????-??-?*) ;; *) writable=no ;; esac
  [ "$at" != / ] || break
  at=${at%/*}
  [ -n "$at" ] || at=/
done
report conf-writable "$writable"
if [ -e /etc/NIXOS ]; then report nixos yes; fi
