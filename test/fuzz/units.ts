// Imported first: what esbuild inserts into the bundles (build/texts.ts), and nothing here uses.
Object.assign(globalThis, { NIX_LAN_UNITS: '{}', NIX_LAN_SYSTEM_UNITS: '{}', NIX_LAN_SCRIPTS: {} })
