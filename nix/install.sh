# shellcheck shell=bash
# The install phase of package.nix. The current directory is a copy of dist/; $out, $node and
# $license come from there. Every replacement is checked: a text that is no longer where this looks
# for it must end the build, not give a package that works only by accident.
: "${out:?}" "${node:?}" "${license:?}"

# fail TEXT: says why, and ends the build.
fail() {
  echo "nix-lan: $1" >&2
  exit 1
}

# pin_runtime FILE: the line in scripts/heads/runtime.sh by which the file finds its JavaScript
# runtime names $node. A plain sh script has none.
pin_runtime() {
  if ! grep -q '^find_runtime()' "$1"; then return; fi
  sed -i "s|^nix_lan_pinned=''\$|nix_lan_pinned='$node'|" "$1"
  [ "$(grep -cxF "nix_lan_pinned='$node'" "$1")" = 1 ] || fail "$1 has no line nix_lan_pinned='' where the runtime could be pinned"
}

# install_programs: dist whole, since the programs look for each other beside themselves and
# `nix-lan setup` copies all of it; those for people and for Nix by links in bin.
install_programs() {
  local file folder=$out/lib/nix-lan
  for file in nix-lan nix-lan-connect nix-lan-dispatcher post-build-hook; do
    [ -f "$file" ] || fail "dist has no $file"
  done
  mkdir -p "$out/bin" "$out/lib"
  cp -r . "$folder"
  rm "$folder/demo" # it needs a Debian and root
  for file in post-build-hook nix-lan*; do
    pin_runtime "$folder/$file"
    case $file in
      post-build-hook | nix-lan-dispatcher) ;;
      *) ln -s "../lib/nix-lan/$file" "$out/bin/$file" ;;
    esac
  done
}

# install_units: the one source's units, which start the programs of this very package instead of
# those in PATH.
install_units() {
  local file folder=$out/lib/systemd/user
  mkdir -p "$folder"
  for file in systemd/user/*; do
    sed "s|/usr/bin/env nix-lan|$out/bin/nix-lan|g" "$file" >"$folder/${file##*/}"
  done
  if grep -rn '/usr/bin/env' "$folder"; then fail 'a unit starts something by /usr/bin/env that is not nix-lan'; fi
  grep -rqF "ExecStart=$out/bin/nix-lan" "$folder" || fail 'no unit starts nix-lan'
}


# install_texts FROM TO: the files of a folder of dist, below share.
install_texts() {
  local file
  for file in "$1"/*; do install -D -m 444 -t "$out/share/$2" "$file"; done
}

runHook preInstall
install_programs
install_units
install_texts man/man1 man/man1
install_texts man/man5 man/man5
install_texts completions/bash bash-completion/completions
install_texts completions/zsh zsh/site-functions
install_texts completions/fish fish/vendor_completions.d
install -D -m 444 "$license" "$out/share/doc/nix-lan/LICENSE"
runHook postInstall
