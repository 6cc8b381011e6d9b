#!/bin/sh
# The head of nix-lan-connect. A Nix build fails when this program can't be started, so without a
# JavaScript runtime it becomes an empty store of Nix's own. With --strict (an upload, a person) an
# empty store would be a lie: exit 75, "the box is away".
. ./runtime.sh

if find_runtime; then become_javascript "$@"; fi

nix_lan_problem='nix-lan-connect: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun'
for nix_lan_argument in "$@"; do
  case $nix_lan_argument in
    --strict)
      echo "$nix_lan_problem" >&2
      exit 75
      ;;
    --help | -h | --version)
      echo "$nix_lan_problem" >&2
      exit 127
      ;;
  esac
done
if ! find_program nix-daemon; then
  echo "$nix_lan_problem; nor is there a nix-daemon to stand in as an empty store" >&2
  exit 127
fi
echo "$nix_lan_problem; this cache counts as empty" >&2
exec "$nix_lan_found" --stdio --store dummy://
