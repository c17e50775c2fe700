// The socket that a worker is reached at by the others. On Linux it has an abstract name: no file, so that a worker which has
// dropped its rights gets there, nothing is left behind, and the kernel frees the name with its last holder. Any local user
// can connect to it, and has to prove himself (messaging/handshake.ts). Elsewhere it is a file in the run directory.
// Source: unix(7).

import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { messageOf, SystemError } from '../errors.ts'
import { log } from '../log.ts'
import { createServerHandle } from './bound-socket.ts'

export interface MeshSocket {
  /** -1 when it could not be bound: the worker has no messages then. */
  readonly fd: number
  readonly address: string
  /** In the master: the worker has it now, or is gone. */
  close(): void
}

const HAS_ABSTRACT = process.platform === 'linux'
/** No other user can guess it, and so take it first. */
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

/** Whether the master's own copy is of no more use when the worker has its: without a file, closing takes nothing away. */
export const isPassedOn = HAS_ABSTRACT
