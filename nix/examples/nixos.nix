{ nix-lan, ... }: # the flake, by specialArgs
{
  imports = [ nix-lan.nixosModules.default ];

  services.nix-lan = {
    enable = true;
    user = "alice";
    caches.rpi.host = "rpi.local";
    caches.rpi.ssh = "pi@rpi.local";
  };
}
