// What can be seen of a start before the server that runs is stopped for it: whether its files could be opened, and
// whether it could have those of its addresses that the running server does not hold. Leaves nothing behind.

import { resolve } from 'node:path'
import { parseEndpoint } from '../../endpoint.ts'
import { type Address, parseAddress, parseHttpAddress } from '../../net/address.ts'
import { bindSocket } from '../../net/bound-socket.ts'
import type { Running } from '../control/requests.ts'
import { asCommandError } from '../exit-codes.ts'
import { Sockets } from '../master/sockets.ts'
import type { StartOptions } from '../messages.ts'
import type { Described } from '../operations/describe.ts'
import { filesOf } from '../output/output.ts'
import { checkOutputFile } from '../output/output-file.ts'
import { checkPidFile } from '../pid-file.ts'

/** Rejects with the CommandError that the start would end with. */
export async function checkStart(
  options: StartOptions,
  isDaemon: boolean,
  described: Described,
  running: Running,
): Promise<void> {
  checkFiles(options, isDaemon, described)
  const isHeld = holdsOf(running)
  if (isHeld === null) return
  try {
    await bindAll(options, described, isHeld)
  } catch (error) {
    throw asCommandError(error)
  }
}

function checkFiles(options: StartOptions, isDaemon: boolean, { settings }: Described): void {
  const { log, stdout } = filesOf(options, isDaemon, settings)
  for (const path of [log, stdout]) if (path !== '') checkOutputFile(path)
  const pidFile = options.pidFile ?? settings.pidFile
  if (pidFile !== '') checkPidFile(pidFile)
}

/** Whether the running server holds a place. By port only: a wildcard covers every host. Null if it does not say. */
function holdsOf({ endpoints, health, folder = '' }: Running): ((address: Address) => boolean) | null {
  if (endpoints === undefined) return null
  const places = new Set<string | number>()
  for (const endpoint of endpoints) places.add(parseEndpoint(endpoint).port).add(resolve(folder, endpoint))
  if (health) places.add(placeOf(parseHttpAddress(health), folder))
  return (address) => places.has(placeOf(address))
}

function placeOf({ transport, port, path }: Address, folder = ''): string | number {
  return transport === 'unix' ? resolve(folder, path) : port
}

/** Binds what is not held, all of it at the same time, and closes it again. Rejects with a SystemError. */
async function bindAll(
  options: StartOptions,
  { groups, settings }: Described,
  isHeld: (address: Address) => boolean,
): Promise<void> {
  const sockets = new Sockets()
  const health = options.health ?? settings.health
  const probes = health === '' || isHeld(parseHttpAddress(health)) ? null : await bindSocket(parseHttpAddress(health))
  try {
    for (const declaration of groups) {
      const { listen, transport } = declaration
      if (listen === '' || isHeld(parseAddress(listen, transport === 'udp' ? transport : ''))) continue
      await sockets.reserve({ ...declaration, backlog: 0 }) // clients would be reset if it listened
    }
  } finally {
    sockets.closeAll()
    probes?.close()
  }
}
