// Contracts that hold for an ordinary user: as root they are run as one, since root ignores NIX_LAN_CONFIG.

export const ROOT = process.getuid?.() === 0
/** Who runs the program: nobody, or whoever runs the tests. */
export const USER = ROOT ? 65534 : (process.getuid?.() ?? 65534)
/** Goes before the command. The capability: so that programs in root's folders can be run by somebody else. */
export const AS_USER = ROOT
  ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search']
  : []
