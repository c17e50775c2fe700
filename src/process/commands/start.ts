// `start`: a server in the foreground, or as a daemon. Also what `restart` shares with it: checking the code first.

import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import { addon } from '../../addon.ts'
import { codeOf, messageOf } from '../../errors.ts'
import { type Address, isAnyPort, isSamePlace, parseAddress } from '../../net/address.ts'
import { udpPorts } from '../../net/udp-ports.ts'
import { copyFor } from '../app-copy.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import type { Declaration } from '../group.ts'
import { launchDaemon, runDirect, runOther } from '../launch.ts'
import type { StartOptions } from '../messages.ts'
import { type Described, describeModules } from '../operations/describe.ts'
import { realPathOrSelf } from '../paths.ts'
import { startFile } from '../start-file.ts'
import { ANY_WORDS, type Command } from './command.ts'
import { type Line, refuseStartFlags, START_FLAGS, startOptions, usage } from './line.ts'
import { operate } from './operate.ts'
import { showJson } from './print.ts'
import { askServer, findServer } from './server.ts'

export const start: Command = {
  operands: '[app.js ...] [NAME ...] [-- arguments of the app]',
  summary: 'run the server of app.js in the foreground (without app.js: a demo); -d: as a daemon',
  details: `Evaluates app.js in a process of its own, binds its addresses, starts its processes and serves until it is stopped.
With -d it returns when every process serves, or with the reason why not (exit code 5, 6 or 7).
With NAME: starts groups of a server that runs, which 'stop NAME' has stopped.`,
  flags: [...START_FLAGS, 'name'],
  hasModules: true,
  words: ANY_WORDS,
  async run(line) {
    if (line.words.length > 0) return startGroups(line)
    return runOtherCopy(line) ?? launch(line)
  },
}

async function startGroups(line: Line): Promise<Exit> {
  const { words: names } = line
  try {
    await findServer(line) // where none runs, the word was meant for a file, with its flags
    refuseStartFlags(line)
    return await operate(line, { command: 'start', names }, 'started')
  } catch (error) {
    if (!(error instanceof CommandError && error.exitCode === Exit.NotRunning)) throw error
    throw new CommandError(
      Exit.Module,
      `there is no file ${resolve(names[0] ?? '')}, and no server whose group it could be`,
      {
        next: 'name a file that is there',
      },
    )
  }
}

/** Becomes the server, or starts it. Resolves with the exit code. */
export async function launch(line: Line, options: StartOptions = startOptions(line)): Promise<Exit> {
  const { flags, isDirect } = line
  checkLaunch(line)
  if (flags.daemon !== true) return isDirect ? runDirect(options) : master(options)
  const banner = await launchDaemon(options)
  if (flags.json !== true) {
    process.stdout.write(banner) // the server runs, whether or not anybody can read this
    return Exit.Ok
  }
  return showJson((await askServer(line, { command: 'status' })).status)
}

/** Throws a CommandError for flags that `launch` would refuse. */
export function checkLaunch({ flags }: Line): void {
  if (flags.json === true && flags.daemon !== true) throw usage('--json tells what a daemon is: it needs -d')
}

/** Turns this process into the master. */
async function master(options: StartOptions): Promise<Exit> {
  const { runMaster } = await import('../run-master.ts')
  return runMaster(options, false, null)
}

/**
 * What the code declares. Also rejects for code that no start could bring up: `restart` must not end a running server
 * for it.
 */
export async function describeHere(options: StartOptions): Promise<Described> {
  const { modules, argv, user = '', group = '', engine } = options
  const { signal } = new AbortController()
  const nobody = { output: null, onSpawn: () => undefined }
  const described = await describeModules({ modules, argv, user, group, engine, signal, ...nobody })
  for (const declaration of described.groups) if (declaration.transport === 'udp') checkUdp(declaration)
  checkPlaces(described.groups)
  return described
}

/** Two Workers cannot have one address, except at port 0, where each gets a port of its own. */
function checkPlaces(groups: readonly Declaration[]): void {
  const places: { readonly name: string; readonly address: Address }[] = []
  for (const { name, listen, transport } of groups) {
    if (listen === '' || (transport === 'udp' && addon().sys === null)) continue // its processes bind
    const address = parseAddress(listen, transport === 'udp' ? transport : '')
    const other = isAnyPort(address) ? undefined : places.find((one) => isSamePlace(one.address, address))
    if (other !== undefined)
      throw new CommandError(Exit.Module, `workers '${other.name}' and '${name}' are both at ${listen}`, {
        next: 'give one of them another address',
      })
    places.push({ name, address })
  }
}

function checkUdp(declaration: Declaration): void {
  try {
    udpPorts().check(declaration)
  } catch (error) {
    throw new CommandError(Exit.Module, messageOf(error), { cause: error })
  }
}

// Two copies of the package: npx or a global one starts an app that has its own

/**
 * Runs this line with the copy that the app resolves. Null if that is this one, or none: the app may import us by a
 * path.
 */
export function runOtherCopy({ modules, isDirect }: Line): Promise<number> | null {
  const other = isDirect ? null : otherCopy(modules[0] ?? '')
  return other === null ? null : runOther(other)
}

function otherCopy(module: string): string | null {
  try {
    realpathSync(module)
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') return null
    throw new CommandError(Exit.Module, `there is no file ${module}`, { next: 'name a file that is there' })
  }
  const theirs = copyFor(module)?.startFile ?? null
  return theirs === realPathOrSelf(startFile()) ? null : theirs
}
