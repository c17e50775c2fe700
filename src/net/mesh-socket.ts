// The socket at which other workers reach a worker. On Linux it has an abstract name: no file, so a worker that has
// dropped its privileges can reach it, nothing is left behind, and the kernel frees the name with its last holder. Any
// local user can connect to it, but has to authenticate (messaging/handshake.ts). Elsewhere it is a file in the run
// directory. Source: unix(7).

import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { messageOf, SystemError } from '../errors.ts'
import { log } from '../log.ts'
import { createServerHandle } from './bound-socket.ts'

interface MeshSocket {
  /** -1 when it could not be bound: the worker then receives no messages. */
  readonly fd: number
  readonly address: string
  /** Called in the master when the worker has it, or is gone. */
  close(): void
}

const HAS_ABSTRACT = process.platform === 'linux'
/** Random bytes, so that no other user can guess the name and take it first. */
const NAME_BYTES = 16

export function bindMeshSocket(runDir: string): MeshSocket {
  const name = `millrace-${randomBytes(NAME_BYTES).toString('hex')}`
  const address = HAS_ABSTRACT ? `\0${name}` : join(runDir, name.slice(0, 20))
  try {
    const handle = createServerHandle(address, -1, -1)
    if (typeof handle === 'number') throw SystemError.fromErrno(handle, 'bind', address)
    return { fd: handle.fd, address, close: () => handle.close() }
  } catch (error) {
    log(`no socket for messages: ${messageOf(error).replace('\0', '@')}`)
    return { fd: -1, address: '', close: () => undefined }
  }
}

/** Whether the master can close its own copy once the worker has its copy: without a file, closing removes nothing. */
export const isPassedOn = HAS_ABSTRACT
