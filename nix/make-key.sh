#!/usr/bin/env bash
# Makes the key that signs what this machine builds. Never replaces an existing one. Run as root by
# the NixOS module before nix.conf names the key: every build fails if secret-key-files names a
# missing file.
#     make-key.sh SECRET-FILE PUBLIC-FILE NAME
# NAME is the start of the key's name; if empty, the host name. A random part follows, because Nix
# believes only the first of several keys with the same name (src/libstore/keys.cc): a new key must
# not be named like the one it replaces.
set -eu
umask 077

# Resolves links to where the file is or will be. A rename would replace the link itself, and the
# persistent folder behind it (impermanence) would stay empty.
secret=$(readlink -m -- "$1")
public=$(readlink -m -- "$2")

# place FROM TO MODE: moves a file into place in one step; a mount point can only be written to.
place() {
  chmod "$3" "$1"
  mv -fT -- "$1" "$2" 2>/dev/null || cat -- "$1" >"$2"
}

# new_name NAME: NAME-RANDOM-1.
new_name() {
  local name=$1
  if [ -z "$name" ]; then
    name=$(cat /proc/sys/kernel/hostname)
    name=${name%%.*}
    name=${name//[!A-Za-z0-9-]/}
  fi
  printf '%s-%s-1' "${name:-nix-lan}" "$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')"
}

for file in "$secret" "$public"; do (umask 022 && mkdir -p -- "${file%/*}"); done
work=$(mktemp -d -- "${secret%/*}/.nix-lan-key.XXXXXX")
trap 'rm -rf -- "$work"' EXIT

if [ -s "$secret" ]; then
  if [ -s "$public" ]; then exit 0; fi
  nix --extra-experimental-features nix-command key convert-secret-to-public <"$secret" >"$work/public"
  place "$work/public" "$public" 0644
  exit 0
fi

nix-store --generate-binary-cache-key "$(new_name "$3")" "$work/secret" "$work/public"
if [ -s "$public" ]; then
  echo "the former key of this machine is gone; to fetch back what it signed: nix.settings.trusted-public-keys = [ \"$(cat -- "$public")\" ];"
  cat -- "$public" >>"$public.former"
  chmod 0644 "$public.former"
fi
text=$(cat -- "$work/public")
# The public half goes first: once both exist, the next run does nothing.
place "$work/public" "$public" 0644
place "$work/secret" "$secret" 0600
echo "what is built here is signed from now on; for trusted-public-keys of the box: $text"
