// How the processes of a group come to their UDP port. node:dgram has no descriptor that a master could bind and pass on
// (`_handle` is gone in Node 26), so each process binds the port itself. Where it can be handed down, by an addon, that
// is another `UdpPorts` for the master's `Sockets`; a worker takes either (net/udp.ts).

import { UsageError } from '../errors.ts'
import type { Address } from './address.ts'
import type { BoundSocket } from './bound-socket.ts'
import { canReusePort, freeEndpoint } from './udp.ts'

export interface UdpPorts {
  /** Throws UsageError when so many processes cannot have one port. */
  check(who: string, count: number): void
  /** The port that all processes of a group will have, resolved. Rejects with a SystemError when it is not free. */
  bind(address: Address): Promise<BoundSocket>
}

/** Between this look at the port and the first process that binds it, and while none lives, it is not ours. */
export const childBoundPorts: UdpPorts = {
  check(who, count) {
    if (count <= 1 || canReusePort()) return
    throw new UsageError(
      'ERR_UDP_COUNT',
      `${who}: ${count} processes cannot share a UDP port on Node ${process.versions.node}: use count: 1, or Node 23.1 or newer on Linux`,
    )
  },
  async bind({ host, port }) {
    const endpoint = await freeEndpoint(host, port)
    return { fd: -1, handle: null, endpoint, isExclusive: !canReusePort(), close: nothing }
  },
}

function nothing(): void {
  // The processes have it.
}
