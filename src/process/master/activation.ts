// Sockets that a service manager has bound and passes to the process it starts: sd_listen_fds(3), systemd.socket(5).
// They arrive as descriptors 3, 4, ...; LISTEN_PID names the process they are for. Connections made while the server
// restarts wait in them, and a port below 1024 needs no root. A socket is matched to a Worker by its address: the code
// says what is served where, with systemd or without.

import { isIPv6 } from 'node:net'
import { addon } from '../../addon.ts'
import type { Sys } from '../../addon-types.ts'
import { formatEndpoint } from '../../endpoint.ts'
import { messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { type Address, ipv6Bytes } from '../../net/address.ts'
import { adoptSocket, type BoundSocket } from '../../net/bound-socket.ts'
import { nothing } from '../../nothing.ts'
import { missing } from './service.ts'

const FIRST_FD = 3

export interface ActivatedSocket {
  readonly socket: BoundSocket
  /** The address it is bound to. */
  readonly address: Address
  /** FileDescriptorName=, by default the name of the socket unit. */
  readonly name: string
}

/** The descriptor numbers; empty if LISTEN_PID is not this process. */
export function activatedDescriptors(): number[] {
  const { LISTEN_PID = '', LISTEN_FDS = '' } = process.env
  const count = LISTEN_PID === String(process.pid) && /^\d{1,4}$/.test(LISTEN_FDS) ? Number(LISTEN_FDS) : 0
  return Array.from({ length: count }, (_, at) => FIRST_FD + at)
}

/** Takes the sockets, once. A socket that cannot be served is logged and left alone. */
export function takeActivated(): ActivatedSocket[] {
  const fds = activatedDescriptors()
  if (fds.length === 0) return []
  const names = (process.env.LISTEN_FDNAMES ?? '').split(':')
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PIDFDID']) delete process.env[name]
  const { sys } = addon()
  if (sys === null) {
    missing('sockets of the service manager are not taken; Workers bind their addresses themselves')
    return []
  }
  return fds.flatMap((fd, at) => {
    const name = names[at] || 'unknown' // the name systemd uses
    try {
      return [take(fd, name, sys)]
    } catch (error) {
      log(`socket ${name} of the service manager (descriptor ${fd}) cannot be used: ${messageOf(error)}`)
      return []
    }
  })
}

function take(fd: number, name: string, sys: Sys): ActivatedSocket {
  const kind = sys.takeInherited(fd)
  if (kind === 'other')
    throw new Error('it does not listen (Accept=no is needed, and ListenStream= or ListenDatagram=)')
  const { family, address: host, port } = sys.socketName(fd)
  if (family === 0 && (kind === 'datagrams' || host === '')) throw new Error('it is no Unix stream socket with a path')
  const transport = family === 0 ? 'unix' : kind === 'datagrams' ? 'udp' : 'tcp'
  const endpoint = family === 0 ? host : formatEndpoint(host, port)
  // This process's exit closes it; the service manager has its own.
  const socket =
    kind === 'datagrams' ? { fd, handle: null, endpoint, close: nothing, abandon: nothing } : adoptSocket(fd, endpoint)
  const address = {
    scheme: '',
    transport,
    host: family === 0 ? '' : host,
    port,
    path: family === 0 ? host : '',
  } as const
  return { socket: { ...socket, isActivated: true }, address, name }
}

/** Whether a bound socket serves a declared address: the same address, or the wildcard address of the other family. */
export function isMeant(bound: Address, declared: Address): boolean {
  if (bound.transport !== declared.transport || bound.port !== declared.port || bound.path !== declared.path)
    return false
  return canonical(bound.host) === canonical(declared.host)
}

const ANY = 'any'

/** `ListenStream=80` binds `[::]:80`, which also takes IPv4; people declare that as `0.0.0.0:80`. */
function canonical(host: string): string {
  if (host === '0.0.0.0') return ANY
  if (!isIPv6(host)) return host
  const bytes = ipv6Bytes(host)
  const [, zone = ''] = host.split('%')
  return bytes.every((byte) => byte === 0) ? ANY : `${bytes.toString('hex')}%${zone}`
}
