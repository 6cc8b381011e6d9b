# shellcheck shell=sh
# What a person sees when there is no JavaScript runtime; included, after the search for one, by a
# line `. ./no-runtime.sh`. The same list as in scripts/system/runtime.ts, which setup and doctor
# print; test/unit/search-path.test.ts compares them.
{
  echo "${0##*[/]}: no JavaScript runtime found: install Node 18.19 or later, Deno 2 or Bun"
  echo "Searched: PATH, then ${nix_lan_directories-}"
  echo 'sudo drops what nvm and its like add to PATH. For the whole system, one of:'
  echo '  sudo apt install nodejs    # Debian 12, Ubuntu 24.04 and later'
  echo '  sudo dnf install nodejs    # Fedora'
  echo '  sudo pacman -S nodejs    # Arch'
  echo "  sudo \"\$(command -v nix)\" --extra-experimental-features 'nix-command flakes' profile install --profile /nix/var/nix/profiles/default nixpkgs#nodejs"
  echo "  sudo install -m 755 \"\$(command -v node)\" /usr/local/bin/    # a copy of yours, where nvm is in PATH"
} >&2
