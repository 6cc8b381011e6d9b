// Files in other languages that are part of the programs: systemd units, and sh code for a shell to
// run. esbuild inserts their text (define, see build/texts.ts), because Deno imports only
// TypeScript and JavaScript.

/** JSON. */
declare const NIX_LAN_UNITS: string
declare const NIX_LAN_SYSTEM_UNITS: string
declare const NIX_LAN_SCRIPTS: Readonly<Record<'keeper' | 'boxProbe' | 'boxSocket' | 'boxKeys', string>>

/**
 * The units of the user's systemd in scripts/units/user: file name, such as `nix-lan@.target` → the
 * unit's text, without comments. Their ExecStart= lines start our programs as `/usr/bin/env NAME`.
 */
export const UNITS: Readonly<Record<string, string>> = /* @__PURE__ */ JSON.parse(NIX_LAN_UNITS)

/** The same for the system's systemd, in scripts/units/system. */
export const SYSTEM_UNITS: Readonly<Record<string, string>> = /* @__PURE__ */ JSON.parse(NIX_LAN_SYSTEM_UNITS)

/** scripts/heads/keeper.sh, for `sh -c`; it documents its arguments. */
export const KEEPER: string = NIX_LAN_SCRIPTS.keeper

/** scripts/heads/box-probe.sh: what setup asks a box. */
export const BOX_PROBE: string = NIX_LAN_SCRIPTS.boxProbe

/** scripts/heads/box-socket.sh: what doctor asks a box about its socket. */
export const BOX_SOCKET: string = NIX_LAN_SCRIPTS.boxSocket

/** scripts/heads/box-keys.sh: what doctor asks a box about its keys. */
export const BOX_KEYS: string = NIX_LAN_SCRIPTS.boxKeys
