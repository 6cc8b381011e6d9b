// Parses our substituter URLs: which nix-lan-connect, for which cache. Pure; config/store-url.ts
// writes them.

/**
 * A nix-lan-connect in nix.conf: `program` and its one argument, a socket's path or a cache's name.
 */
export interface ConnectUrl {
  url: string
  program: string
  target: string
}

/** The nix-lan-connect that Nix would start for a URL; undefined for any other store. */
export function connectIn(url: string): ConnectUrl | undefined {
  const [, query] = /^ssh-ng:\/\/localhost\?(.*)$/.exec(url) ?? []
  const [, command] = /(?:^|&)remote-program=([^&]*)/.exec(query ?? '') ?? []
  const words = decoded(command ?? '').split(' ')
  const program = words[0] ?? ''
  const target = words.slice(1).find((word) => !word.startsWith('-'))
  if (!/(^|\/)nix-lan-connect$/.test(program) || target === undefined) return undefined
  return { url, program, target }
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
