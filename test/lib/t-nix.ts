// Derivations for tests with a real Nix.

/**
 * The text of a .nix file: a derivation, or `count` of them named NAME-1…, else NAME itself. An
 * output is one file.
 */
export const T_NIX = `# Derivations that need no nixpkgs; the sandbox is off, so /bin/sh will do as the builder.
{ name ? "demo", text ? "hello", count ? 0, kb ? 0, seconds ? 0 }:
let
  one = name: derivation {
    inherit name text kb seconds;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-c" "[ $seconds = 0 ] || sleep $seconds; echo \\"$text\\" > $out; [ $kb = 0 ] || head -c \${toString (kb * 1024)} /dev/urandom >> $out" ];
  };
in if count == 0 then one name else builtins.genList (n: one "\${name}-\${toString (n + 1)}") count
`
