# Made by "npm run build" from the --help of the commands: change that instead.

function __nix_lan_caches
    sh -c 'for file in "${NIX_LAN_CONFIG-}" /etc/nix-lan/config.toml ~/.config/nix-lan/config.toml; do [ -r "$file" ] || continue; sed -n \'s/^[[:blank:]]*\\[[[:blank:]]*cache[[:blank:]]*\\.[[:blank:]]*"\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' "$file"; break; done'
end

complete -c nix-lan-tunnel -f
complete -c nix-lan-tunnel -l print -d 'only show the ssh command'
complete -c nix-lan-tunnel -l service -d 'as systemd\'s nix-lan-tunnel@CACHE.service starts it: says when a nix-daemon answers, and instead of ending because it can\'t get there, says why and tries again, after up to a minute'
complete -c nix-lan-tunnel -s h -l help -d 'show this'
complete -c nix-lan-tunnel -l version -d 'show the version'
complete -c nix-lan-tunnel -a '(__nix_lan_caches)'
