// Files of other languages that are part of the programs: systemd units, and sh for other shells to
// run. esbuild puts their text in (define, see build/texts.ts), since Deno imports nothing but
// TypeScript and JavaScript.

declare const NIX_LAN_UNITS: Readonly<Record<string, string>>
declare const NIX_LAN_SCRIPTS: { readonly keeper: string }

/**
 * The systemd user units of scripts/units: file name, such as `nix-lan@.target` → the unit's text.
 * In its ExecStart= lines a program of ours is `/usr/bin/env NAME`.
 */
export const UNITS: Readonly<Record<string, string>> = NIX_LAN_UNITS

/** scripts/heads/keeper.sh, for `sh -c`: it says which arguments it takes. */
export const KEEPER: string = NIX_LAN_SCRIPTS.keeper
