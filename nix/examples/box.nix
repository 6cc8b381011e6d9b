{ nix-lan, ... }: # the flake, by specialArgs
{
  imports = [ nix-lan.nixosModules.default ];

  services.openssh.enable = true;
  users.users.pi.isNormalUser = true;
  services.nix-lan.box = {
    enable = true;
    trustedPublicKeys = [ "laptop-1f0c9a3e-1:6iQLhkJRXQ5Zpr0Kq5tiFqPrRDbeqzSBdM3ZVnCjJyA=" ]; # the laptop's /etc/nix/nix-lan.public
    users = [ "pi" ];
  };
}
