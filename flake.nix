{
  description = "A Nix cache on the machine in the cupboard, for a laptop that comes and goes";

  # There is no flake.lock here: only the version of Node depends on it, and your own lock file has
  # that (let it follow your nixpkgs).
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
      package =
        pkgs:
        pkgs.callPackage ./nix/package.nix {
          tests = builtins.removeAttrs self.checks.${pkgs.stdenv.hostPlatform.system} [ "package" ];
        };
      app = pkgs: name: {
        type = "app";
        program = "${package pkgs}/bin/${name}";
        meta.description = "${name} of nix-lan";
      };
    in
    {
      packages = each (pkgs: {
        default = package pkgs;
        nix-lan = package pkgs;
      });

      apps = each (pkgs: {
        default = app pkgs "nix-lan";
        nix-lan = app pkgs "nix-lan";
        nix-lan-run = app pkgs "nix-lan-run";
      });

      overlays.default = final: prev: { nix-lan = package final; };

      # Sets, since Nix 2.8's `flake check` takes no path for a module; a path inside, so that one
      # imported twice counts once.
      homeModules.default.imports = [ ./nix/home-manager.nix ];
      nixosModules.default.imports = [ ./nix/nixos.nix ];

      checks = each (pkgs: {
        package = package pkgs;
        modules = import ./nix/checks.nix {
          inherit pkgs;
          inherit (nixpkgs) lib;
        };
        vm = pkgs.testers.runNixOSTest ./nix/test.nix;
      });

      # For work on nix-lan itself: npm and the Node that the package has. npm brings the rest.
      devShells = each (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.nodejs
            pkgs.shellcheck
          ];
        };
      });
    };
}
