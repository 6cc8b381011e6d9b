# shellcheck shell=sh
# What `nix-lan doctor` asks a box: may this user connect to the socket $1, and if not, whose is it?
# Runs there, on stdin of sh, since the login shell may be anything. Changes nothing.

s=$1 d=${1%/*}
if [ -w "$s" ]; then w=writable; elif [ -e "$s" ] || { [ -d "$d" ] && ! [ -x "$d" ]; }; then w=denied
elif [ -d "$d" ]; then w=missing; else p=${d%/*}; if [ -d "$p" ] && ! [ -x "$p" ]; then w=denied d=$p; else w=missing; fi; fi
f=$d; [ "$w" != denied ] || ! [ -e "$s" ] || f=$s
# shellcheck disable=SC2012 # for a group name; the box may have no stat
g=$(ls -ldL -- "$f" 2>/dev/null | { read -r _ _ _ g _ && echo "$g"; })
n=other; [ ! -e /etc/NIXOS ] || n=nixos
echo "nix-lan $(id -un) $w $g $n"
