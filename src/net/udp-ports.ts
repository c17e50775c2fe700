// How the processes of a group get their UDP port. With the addon the master binds the socket and all of them inherit
// it, as with TCP. node:dgram has no descriptor to pass on (`_handle` is gone in Node 26), so without the addon each
// process binds the port itself, if the kernel lets several do that. A worker accepts either (udp.ts).

import { addon } from '../addon.ts'
import type { Sys } from '../addon-types.ts'
import { formatEndpoint } from '../endpoint.ts'
import { UsageError } from '../errors.ts'
import { nothing } from '../nothing.ts'
import type { Address } from './address.ts'
import { type BoundSocket, resolve } from './bound-socket.ts'
import { canReusePort, freeEndpoint } from './udp.ts'

interface UdpGroup {
  readonly name: string
  readonly listen: string
  readonly count: number
}

export interface UdpPorts {
  /** Throws UsageError when this many processes cannot have one port. */
  check(group: UdpGroup): void
  /**
   * Reserves the port that all processes of a group will have, resolved. Rejects with a SystemError when it is not
   * free.
   */
  bind(address: Address): Promise<BoundSocket>
}

export function udpPorts(): UdpPorts {
  const { sys } = addon()
  return sys === null ? childBoundPorts : masterBoundPorts(sys)
}

/** What arrives while no process is running waits in the socket's queue. */
function masterBoundPorts(sys: Sys): UdpPorts {
  return {
    check: nothing, // any number of processes can inherit a socket
    async bind({ host, port }) {
      const ip = await resolve(host)
      const bound = sys.bind({ transport: 'udp', host: ip, port, path: '', isDualStack: true }) // as dgram
      const { address, port: taken } = sys.socketName(bound.fd)
      const close = () => bound.close()
      return { fd: bound.fd, handle: null, endpoint: formatEndpoint(address, taken), close, abandon: close }
    },
  }
}

/**
 * Between this check of the port and the first process that binds it, and while none is running, the port is not ours.
 */
export const childBoundPorts: UdpPorts = {
  check({ name, listen, count }) {
    if (count <= 1 || canReusePort()) return
    throw new UsageError(
      'ERR_UDP_COUNT',
      `worker '${name}' on ${listen}: ${count} processes cannot share a UDP port on Node ${process.versions.node} without the addon (${addon().why}): use count: 1, the addon, or Node 23.1 or newer on Linux`,
    )
  },
  async bind({ host, port }) {
    return boundByChildren(await freeEndpoint(host, port))
  },
}

/** A port of which the master knows only the number: sockets bound by processes are theirs to close. */
export function boundByChildren(endpoint: string): BoundSocket {
  return { fd: -1, handle: null, endpoint, isExclusive: !canReusePort(), close: nothing, abandon: nothing }
}
