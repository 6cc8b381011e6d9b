# shellcheck shell=bash
# The install phase of package.nix, which provides $out, $node, $perl, $tools (the folder of
# coreutils' programs) and $license; the current directory
# is a copy of dist/. Checks every replacement: text that has moved must fail the build, not give a
# package that works only by accident.
: "${out:?}" "${node:?}" "${perl:?}" "${tools:?}" "${license:?}"

# fail TEXT: prints why and fails the build.
fail() {
  echo "nix-lan: $1" >&2
  exit 1
}

# pin_runtime FILE: puts $node into the line from scripts/heads/runtime.sh that finds the file's
# JavaScript runtime. A plain sh script has no such line.
pin_runtime() {
  if ! grep -q '^find_runtime()' "$1"; then return; fi
  sed -i "s|^nix_lan_pinned=''\$|nix_lan_pinned='$node'|" "$1"
  [ "$(grep -cxF "nix_lan_pinned='$node'" "$1")" = 1 ] || fail "$1 has no line nix_lan_pinned='' where the runtime could be pinned"
}

# pin_perl FILE: the same for $perl, in a file that relays to the broker.
pin_perl() {
  if ! grep -q '^relay()' "$1"; then return; fi
  sed -i "s|^nix_lan_perl=''\$|nix_lan_perl='$perl'|" "$1"
  [ "$(grep -cxF "nix_lan_perl='$perl'" "$1")" = 1 ] || fail "$1 has no line nix_lan_perl='' where perl could be pinned"
}

# install_programs: installs all of dist, because the programs look for each other in their own
# folder and `nix-lan setup` copies everything; links those for people and for Nix in bin.
install_programs() {
  local file folder=$out/lib/nix-lan
  for file in nix-lan nix-lan-connect nix-lan-dispatcher post-build-hook; do
    [ -f "$file" ] || fail "dist has no $file"
  done
  mkdir -p "$out/bin" "$out/lib"
  cp -r . "$folder"
  rm -f "$folder/demo" # it needs a Debian and root; the npm package has none
  for file in post-build-hook nix-lan*; do
    pin_runtime "$folder/$file"
    pin_perl "$folder/$file"
    case $file in
      post-build-hook | nix-lan-dispatcher) ;;
      *) ln -s "../lib/nix-lan/$file" "$out/bin/$file" ;;
    esac
  done
}

# install_units: installs dist's units, changed to start this package's programs instead of those in
# PATH.
install_units() {
  local file folder
  for folder in user system; do
    mkdir -p "$out/lib/systemd/$folder"
    for file in "systemd/$folder"/*; do
      sed -e "s|/usr/bin/env nix-lan|$out/bin/nix-lan|g" -e "s,/usr/bin/env \(touch\|rm\) ,$tools/\1 ,g" "$file" \
        >"$out/lib/$file"
    done
    grep -rqF "ExecStart=$out/bin/nix-lan" "$out/lib/systemd/$folder" || fail "no $folder unit starts nix-lan"
  done
  if grep -rn '/usr/bin/env' "$out/lib/systemd"; then fail 'a unit starts something by /usr/bin/env that it should not'; fi
}


# install_texts FROM TO: installs the files in a folder of dist under share.
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
