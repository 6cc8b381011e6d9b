// Waiting for what another process does: for the thing itself, never for a time in which a machine
// that isn't busy would have done it.

/** Only something that hangs takes longer, in milliseconds. */
export const HANGS = 60_000

/**
 * Asks again and again until the answer is yes. @param what is waited for, as an error names it
 * @param seen more for that error: what there is instead
 * @throws Error when it hangs
 */
export async function until(what: string, ask: () => boolean | Promise<boolean>, seen: () => string = () => ''): Promise<void> {
  // by a clock that nobody sets
  for (const end = performance.now() + HANGS; !(await ask()); await new Promise((resolve) => setTimeout(resolve, 20)))
    if (performance.now() > end) throw new Error(`waited ${HANGS / 1000} s for ${what} ${seen()}`)
}
