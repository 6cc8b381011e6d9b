{ nix-lan, ... }: # the flake, by extraSpecialArgs
{
  imports = [ nix-lan.homeModules.default ];

  services.nix-lan = {
    enable = true;
    caches.rpi.host = "rpi.local";
    caches.rpi.ssh = "pi@rpi.local";
  };
}
