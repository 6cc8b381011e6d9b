# Made by "npm run build" from the --help of the commands: change that instead.

function __nix_lan_caches
    sh -c 'for file in "${NIX_LAN_CONFIG-}" /etc/nix-lan/config.toml ~/.config/nix-lan/config.toml; do [ -r "$file" ] || continue; sed -n \'s/^[[:blank:]]*\\[[[:blank:]]*cache[[:blank:]]*\\.[[:blank:]]*"\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' "$file"; break; done'
end

complete -c nix-lan-available -f
complete -c nix-lan-available -s u -l usable -d 'ask whether Nix could use it now, not only whether it is reachable'
complete -c nix-lan-available -s w -l wait -x -d 'keep asking for up to SECONDS, in place of the deadline'
complete -c nix-lan-available -s q -l quiet -d 'print nothing, only exit'
complete -c nix-lan-available -l json -d 'the answer for scripts'
complete -c nix-lan-available -s h -l help -d 'show this'
complete -c nix-lan-available -l version -d 'show the version'
complete -c nix-lan-available -a '(__nix_lan_caches)'
