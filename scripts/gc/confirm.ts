// Decides which dead paths a box could give back. Pure. A path counts only with all it refers to,
// and never when in doubt: what this confirms is deleted here.

import { type Keys, provenByName, signedBy } from '../nix/signature.ts'
import type { FullInfo } from '../protocol/daemon-ops.ts'

/** Why a path can't be had back from a box. */
export type Doubt =
  /** The box doesn't have it. */
  | 'missing'
  /** The box has something else by that name: another hash, other references. */
  | 'different'
  /** Its copy on the box is damaged (see system/damage.ts). */
  | 'damaged'
  /** Nothing Nix here trusts vouches for it. */
  | 'unsigned'
  /** It refers to something in doubt. */
  | 'closure'

/** What is known here of one path, as far as this room needs it. */
export type Local = FullInfo

/** What a store claims to have; anything may be in it. */
export type Offer = ReadonlyMap<string, FullInfo>

/** Whether a store's copy of a path is known to be damaged, whatever the store claims. */
export type IsDamaged = (path: string) => boolean

/**
 * The doubts about each path in one store's offer, leaving its references aside.
 * @param here what is known here
 */
export async function doubtsOf(
  here: ReadonlyMap<string, Local>,
  offer: Offer,
  keys: Keys,
  isDamaged: IsDamaged = () => false,
): Promise<Map<string, Doubt>> {
  const judged = [...here].map(async ([path, local]): Promise<[string, Doubt][]> => {
    const doubt = offer.has(path) && isDamaged(path) ? 'damaged' : await doubtOf(local, offer.get(path), keys)
    return doubt === undefined ? [] : [[path, doubt]]
  })
  return new Map((await Promise.all(judged)).flat())
}

/**
 * The doubts about each path together with all it refers to. A path not in the answer can be had
 * back whole, its parts perhaps from different stores.
 * @param here closed under references
 * @param stores doubtsOf() each
 */
export function doubts(here: ReadonlyMap<string, Local>, stores: readonly ReadonlyMap<string, Doubt>[]): Map<string, Doubt> {
  const found = new Map<string, Doubt>()
  for (const [path, local] of here) {
    const reasons = stores.flatMap((store) => store.get(path) ?? [])
    // of several reasons, one that says more than that it isn't there
    const doubt = reasons.length === stores.length ? (reasons.find((reason) => reason !== 'missing') ?? 'missing') : undefined
    if (doubt !== undefined) found.set(path, doubt)
    // what it refers to must be known, or it isn't whole
    else if (local.references.some((reference) => !here.has(reference))) found.set(path, 'closure')
  }
  return withReferrers(found, here)
}

async function doubtOf(local: Local, there: FullInfo | undefined, keys: Keys): Promise<Doubt | undefined> {
  if (!there) return 'missing'
  if (there.hash !== local.hash || there.size !== local.size || !sameSet(there.references, local.references)) return 'different'
  // Judged by the facts here: they match the box's, but the size is one we know.
  const { path, hash, size, references } = local
  if (provenByName(path, references, there.contentAddress)) return undefined
  // `ultimate`, the box's word that it built the path itself, is worth nothing here.
  return (await signedBy(keys, { path, hash, size, references }, there.signatures)) ? undefined : 'unsigned'
}

function sameSet(some: readonly string[], others: readonly string[]): boolean {
  const set = new Set(some)
  const other = new Set(others)
  return set.size === other.size && others.every((one) => set.has(one))
}

/** Whatever refers to a path in doubt is in doubt too. */
function withReferrers(found: Map<string, Doubt>, here: ReadonlyMap<string, Local>): Map<string, Doubt> {
  const referrers = referrersIn(here)
  const todo = [...found.keys()]
  for (let path = todo.pop(); path !== undefined; path = todo.pop()) {
    for (const referrer of referrers.get(path) ?? []) {
      if (found.has(referrer)) continue
      found.set(referrer, 'closure')
      todo.push(referrer)
    }
  }
  return found
}

/** For each path, the given ones that refer to it, itself not counted. */
export function referrersIn(infos: ReadonlyMap<string, Local>): Map<string, string[]> {
  const referrers = new Map<string, string[]>()
  for (const [path, { references }] of infos) {
    for (const reference of references) {
      if (reference === path) continue
      const list = referrers.get(reference)
      if (list) list.push(path)
      else referrers.set(reference, [path])
    }
  }
  return referrers
}
