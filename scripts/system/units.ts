// The systemd user units, as they lie in scripts/units and, built, in dist/systemd/user: for who writes or compares them.

/** Put in by esbuild (define, see build/units.ts): a unit is no TypeScript, and Deno imports nothing else. */
declare const NIX_LAN_UNITS: Readonly<Record<string, string>>

/** File name, such as `nix-lan@.target` → the unit's text. In its ExecStart= lines a program of ours is `/usr/bin/env NAME`. */
export const UNITS: Readonly<Record<string, string>> = NIX_LAN_UNITS
