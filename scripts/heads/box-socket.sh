# shellcheck shell=sh
# What `nix-lan doctor` asks a box: may this user connect to the socket $1, and if not, whose is it?
# Does somebody listen there? Is its Nix's database on a read-only disk, mounted where, and how many
# KiB are free? Runs there, on stdin of sh, since the login shell may be anything. Changes nothing.

s=$1 d=${1%/*}
if [ -w "$s" ]; then w=writable; elif [ -e "$s" ] || { [ -d "$d" ] && ! [ -x "$d" ]; }; then w=denied
elif [ -d "$d" ]; then w=missing; else p=${d%/*}; if [ -d "$p" ] && ! [ -x "$p" ]; then w=denied d=$p; else w=missing; fi; fi
f=$d; [ "$w" != denied ] || ! [ -e "$s" ] || f=$s
# shellcheck disable=SC2012 # for a group name; the box may have no stat
g=$(ls -ldL -- "$f" 2>/dev/null | { read -r _ _ _ g _ && echo "$g"; })
n=other; [ ! -e /etc/NIXOS ] || n=nixos
echo "nix-lan $(id -un) $w $g $n"
# flag 00010000: it listens (proc_pid_net(5)); a container with our network and such a path does, too
if [ -r /proc/net/unix ]; then
  while read -r _ _ _ flags _ _ _ path; do
    [ "$flags $path" != "00010000 $s" ] || { echo nix-lan-listens && break; }
  done </proc/net/unix
fi
# the longest mount point that holds it counts, and of several there the last
db=/nix/var/nix/db/ m=rw p=/
if [ -r /proc/self/mounts ]; then
  while read -r _ at _ options _; do
    case $db in "${at%/}"/*) ;; *) continue ;; esac
    [ "${#at}" -ge "${#p}" ] || continue
    p=$at m=rw
    case ,$options, in *,ro,*) m=ro ;; esac
  done </proc/self/mounts
fi
echo "nix-lan-disk $m $p $(df -Pk "$db" 2>/dev/null | { read -r _ && read -r _ _ _ free _ && echo "$free"; })"
