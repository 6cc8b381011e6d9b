# Made by "npm run build" from the --help of the commands: change that instead.

function __nix_lan_caches
    sh -c 'for file in "${NIX_LAN_CONFIG-}" /etc/nix-lan/config.toml ~/.config/nix-lan/config.toml; do [ -r "$file" ] || continue; sed -n \'s/^[[:blank:]]*\\[[[:blank:]]*cache[[:blank:]]*\\.[[:blank:]]*"\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' "$file"; break; done'
end

complete -c nix-lan-connect -f
complete -c nix-lan-connect -l strict -d 'for uploads: exit 75 when the box is away, 2 when the configuration is wrong'
complete -c nix-lan-connect -l deadline -x -d 'how long to wait for the box\'s nix-daemon to shake hands (default: 2, or the cache\'s own); its first answer may take 30'
complete -c nix-lan-connect -l patience -x -d 'how long to wait for a box that is lost, or gets nowhere, during a fetch (default: 60, or the cache\'s own)'
complete -c nix-lan-connect -l broker -x -a '(__nix_lan_caches)' -d 'be the broker of a cache, for all sessions of Nix; nix-lan-broker@CACHE.service starts it'
complete -c nix-lan-connect -l stdio -d 'what Nix adds: speak the worker protocol on stdin and stdout'
complete -c nix-lan-connect -s h -l help -d 'show this'
complete -c nix-lan-connect -l version -d 'show the version'
complete -c nix-lan-connect -F
