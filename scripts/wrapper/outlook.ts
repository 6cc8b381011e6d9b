// Produces what a nix-lan-run command needs: the line for NIX_CONFIG, or the plan for --explain.
// Never throws over a problem on our side: the person gets a line about it, and the command runs.
import { basename } from 'node:path'
import { loadConfig } from '../config/config.ts'
import { readNixConf } from '../nix/nix-conf.ts'
import { ASKED, confEnvironment } from './environment.ts'
import { firstLine, outlook, who } from './facts.ts'
import { ignoredFor, type Plan } from './substituters.ts'

const NOTHING: Plan = { setting: undefined, decisions: [], dropped: [] }

/**
 * The line for NIX_CONFIG; undefined if there is nothing to change.
 * @param warn prints one line for the person
 */
export async function settingFor(warn: (message: string) => void): Promise<string | undefined> {
  if (process.env[ASKED]) return undefined
  try {
    const { plan, problem } = await outlook(loadConfig(), readNixConf(confEnvironment()))
    if (problem) warn(problem)
    return plan.setting
  } catch (error) {
    warn(`${firstLine(error)}; the command runs with the substituters of nix.conf`)
    return undefined
  }
}

/** The plan with the notes for --explain. */
export async function storyOf(command: string): Promise<{ plan: Plan; notes: string[] }> {
  const conf = readNixConf(confEnvironment())
  const notes = /^(sudo|doas|su|runuser)$/.test(basename(command))
    ? [`${command} drops NIX_CONFIG; write "${command} nix-lan-run …" instead`]
    : []
  try {
    const { plan, problem } = await outlook(loadConfig(), conf)
    const added = plan.decisions.flatMap(({ action, url }) => (action === 'add' && url !== undefined ? [url] : []))
    for (const url of ignoredFor(await who(), added, conf)) {
      notes.push(
        `you are not one of Nix's trusted-users: nix-daemon ignores this cache until trusted-substituters in /etc/nix/nix.conf has ${url}`,
      )
    }
    return { plan, notes: problem ? [...notes, problem] : notes }
  } catch (error) {
    return { plan: NOTHING, notes: [...notes, firstLine(error)] }
  }
}
