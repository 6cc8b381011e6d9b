#!/bin/bash
# A switch of NixOS, as far as nix-lan is concerned, in the order of switch-to-configuration
# (nixpkgs, pkgs/by-name/sw/switch-to-configuration-ng): stop what is gone, activate, flip /etc, read
# units, make files, restart what has changed, start what targets want. Run as root.
#     switch.sh SYSTEM
# A system is a folder: etc (what /etc/static leads to), sw, packages' and own units in
# etc/systemd/{system,user}, and perhaps activate and tmpfiles.
set -u
new=$1
old=$(readlink /run/current-system)

# Our links in /etc lead through /etc/static, as on NixOS. Debian has more in these folders.
links() { (cd "$1/etc" && find . -type f -o -type l) | sed 's,^\./,,' | sort; }

# names FOLDER: the system units in it, with the instances that have a drop-in, and no templates.
names() { (cd "$1/etc/systemd/system" 2>/dev/null && ls) | sed -n 's/\.d$//; /@\.\|\.wants$/d; p' | sort -u; }

# 1. Units that are gone, if active.
gone=$(comm -23 <(names "$old") <(names "$new"))
active=$(for unit in $gone; do systemctl is-active -q "$unit" && echo "$unit"; done)
# Started by its socket; not named by a file of its own then.
for unit in $gone; do case $unit in *.socket) active+=" ${unit%.socket}.service" ;; esac; done
# shellcheck disable=SC2086 # a list
if [ -n "${active// /}" ]; then systemctl stop -- $active; fi

# 2. Activation scripts: ours, then etc.
if [ -e "$new/activate" ]; then NIXOS_ACTION=switch bash "$new/activate"; fi
ln -sfnT "$new/etc" /etc/static
comm -23 <(links "$old") <(links "$new") | while read -r file; do rm -f "/etc/$file"; done
links "$new" | while read -r file; do
  mkdir -p "/etc/${file%/*}"
  ln -sfnT "/etc/static/$file" "/etc/$file"
done
ln -sfnT "$new" /run/current-system

# 3. Units are read anew, the user's, too. From 26.05 on, a user's units that have changed are
# restarted, but for those that say X-RestartIfChanged=false (nixpkgs, PR 507588).
systemctl daemon-reload
user() { setpriv --reuid=1000 --regid=1000 --init-groups env XDG_RUNTIME_DIR=/run/user/1000 systemctl --user "$@"; }
user daemon-reload
for file in "$new"/etc/systemd/user/*.service; do
  [ -e "$file" ] || continue
  unit=${file##*/}
  if cmp -s "$file" "$old/etc/systemd/user/$unit" || [ ! -e "$old/etc/systemd/user/$unit" ]; then continue; fi
  if grep -q '^X-RestartIfChanged=false' "$file"; then continue; fi
  user try-restart "${unit/@./@*.}"
done

# 4. sysinit-reactivation.target
if [ -e "$new/tmpfiles" ]; then systemd-tmpfiles --create "$new/tmpfiles"; fi

# 5. nix-daemon has a restart trigger, nix.conf; it is restarted, not stopped and started.
if ! cmp -s "$old/etc/nix/nix.conf" "$new/etc/nix/nix.conf"; then systemctl restart nix-daemon.service || exit; fi

# 6. Active targets are started again, and with them what they want now.
systemctl start multi-user.target sockets.target timers.target
