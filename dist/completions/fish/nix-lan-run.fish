# Made by "npm run build" from the --help of the commands: change that instead.

function __nix_lan_caches
    sh -c 'for file in "${NIX_LAN_CONFIG-}" /etc/nix-lan/config.toml ~/.config/nix-lan/config.toml; do [ -r "$file" ] || continue; sed -n \'s/^[[:blank:]]*\\[[[:blank:]]*cache[[:blank:]]*\\.[[:blank:]]*"\\{0,1\\}\\([a-z0-9-]*\\).*/\\1/p\' "$file"; break; done'
end

complete -c nix-lan-run -l explain -d 'say what would be done and why; run nothing'
complete -c nix-lan-run -l json -d 'with --explain: the answer for scripts'
complete -c nix-lan-run -s h -l help -d 'show this'
complete -c nix-lan-run -l version -d 'show the version'
complete -c nix-lan-run -x -a '(__fish_complete_subcommand)'
