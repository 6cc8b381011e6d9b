# shellcheck shell=sh
# What `nix-lan doctor` asks a box: the keys that its nix-daemon trusts. Runs there, on stdin of sh,
# after a line that adds to PATH (scripts/doctor/judge-box.ts). Changes nothing.
# shellcheck disable=SC2086 # two words

n=other; [ ! -e /etc/NIXOS ] || n=nixos
for w in 'show-config' 'config show'; do
  k=$(NIX_USER_CONF_FILES='' nix --option extra-experimental-features nix-command $w 2>/dev/null | sed -n 's/^trusted-public-keys = //p')
  [ -z "$k" ] || break
done
echo "nix-lan $n $k"
