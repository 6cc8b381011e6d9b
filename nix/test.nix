{ name = "nix-lan"; nodes = {}; testScript = ""; }
