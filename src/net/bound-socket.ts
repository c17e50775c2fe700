// A bound socket: made and owned by the master and inherited by every worker, so that a connection which arrives while
// no worker is running waits in the kernel's queue. With the addon the master listens at once: of two masters that want
// one port, the second gets the kernel's error. The master accepts nothing.
//
// Without the addon: Node has no public API for this; `net._createServerHandle` is what node:cluster uses. On a port in
// use it returns a handle that is not bound (libuv saves EADDRINUSE for listen), and a child would then listen on a
// random port of every interface. So the bound address is compared with the declared one. Its `listen` would accept in
// the master, so only workers listen; two masters can both bind, and the workers of the second fail.

import {
  type BigIntStats,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  readFileSync,
  renameSync,
  unlinkSync,
} from 'node:fs'
import net from 'node:net'
import { dirname } from 'node:path'
import { addon } from '../addon.ts'
import type { Descriptor, SocketToBind, Sys } from '../addon-types.ts'
import { formatEndpoint } from '../endpoint.ts'
import { codeOf, SystemError } from '../errors.ts'
import { nothing } from '../nothing.ts'
import { type Credentials, nameOf, withRightsOf } from '../rights.ts'
import type { Handle } from '../transport.ts'
import type { Address } from './address.ts'
import { kernelBacklog } from './backlog.ts'

/** Returned by `_createServerHandle`: Node's TCP or Pipe wrap. */
interface ServerHandle extends Handle {
  getsockname?(out: { address?: string; port?: number }): number
}

type CreateServerHandle = (address: string, port: number, family: number, fd?: number) => ServerHandle | number
export const createServerHandle = (net as unknown as { _createServerHandle: CreateServerHandle })._createServerHandle

export interface BoundSocket {
  /** Inheritable by a child; owned by `handle`. -1: each child binds the address itself. */
  readonly fd: number
  /** For `Transport.listen` in this same process. */
  readonly handle: Handle | null
  /** `127.0.0.1:8888` with the resolved port, `[::]:8888`, or a path. */
  readonly endpoint: string
  /** For a Unix socket: identifies the file it made (see `fileId`). */
  readonly file?: string
  /** Only one process at a time can have it: two cannot overlap during a reload. */
  readonly isExclusive?: boolean
  /** Made and kept by a service manager: one socket for all processes of the group, for as long as the master lives. */
  readonly isActivated?: boolean
  /**
   * Releases it, and a Unix socket's file if that is still ours; removes that with the rights of `who` (null: those of
   * this process).
   */
  close(who?: Credentials | null): void
  /** Releases it without removing its file, which now belongs to another process. */
  abandon(): void
}

/**
 * Binds an address, and with the addon also listens on it. Rejects with a SystemError (EADDRINUSE, EACCES,
 * EADDRNOTAVAIL, ENOTFOUND).
 *
 * @param backlog 0: does not listen
 * @param who with whose rights; null: those of this process
 */
export async function bindSocket(
  address: Address,
  backlog = 0,
  who: Credentials | null = null,
  { sys } = addon(),
): Promise<BoundSocket> {
  return address.transport === 'unix' ? bindUnix(address.path, backlog, who, sys) : bindTcp(address, backlog, who, sys)
}

/** Binds one of several sockets that share a port; they listen in the order in which they are made. */
export function bindShared(sys: Sys, host: string, port: number, backlog: number): BoundSocket {
  return listening(sys, { transport: 'tcp', host, port, path: '', reusePort: true, isDualStack: true }, backlog)
}

/** Binds as libuv does: an IPv6 wildcard includes IPv4. */
function listening(sys: Sys, wanted: SocketToBind, backlog: number): BoundSocket {
  const bound = sys.bind(wanted)
  try {
    const { address, port } = sys.socketName(bound.fd)
    const endpoint = wanted.transport === 'unix' ? wanted.path : formatEndpoint(address, port)
    if (backlog > 0) listen(sys, bound, backlog, endpoint)
    return adoptSocket(bound.release(), endpoint)
  } catch (error) {
    bound.close()
    throw error
  }
}

function listen(sys: Sys, { fd }: Descriptor, backlog: number, endpoint: string): void {
  try {
    sys.listen(fd, kernelBacklog(backlog))
  } catch (error) {
    throw new SystemError(codeOf(error), 'listen', endpoint, { cause: error })
  }
}

async function bindTcp(
  { host, port }: Address,
  backlog: number,
  who: Credentials | null,
  sys: Sys | null,
): Promise<BoundSocket> {
  const ip = await resolve(host)
  const wanted: SocketToBind = { transport: 'tcp', host: ip, port, path: '', isDualStack: true }
  return withRightsOf(who, () => (sys === null ? bindWithNode(ip, port) : listening(sys, wanted, backlog)))
}

function bindWithNode(ip: string, port: number): BoundSocket {
  const wanted = formatEndpoint(ip, port)
  const handle = createServerHandle(ip, port, net.isIPv6(ip) ? 6 : 4)
  if (typeof handle === 'number') throw SystemError.fromErrno(handle, 'bind', wanted)
  const bound: { address?: string; port?: number } = {}
  const errno = handle.getsockname?.(bound) ?? 0
  if (errno !== 0 || !isAsked(bound.port ?? 0, port)) {
    handle.close()
    throw errno === 0 ? new SystemError('EADDRINUSE', 'bind', wanted) : SystemError.fromErrno(errno, 'bind', wanted)
  }
  const endpoint = formatEndpoint(bound.address ?? ip, bound.port ?? 0) // the kernel's spelling, which workers compare
  return released(handle, endpoint)
}

function isAsked(bound: number, asked: number): boolean {
  return asked === 0 ? bound !== 0 : bound === asked
}

/** Resolves a host to an IP address. Rejects with a SystemError. */
export async function resolve(host: string): Promise<string> {
  if (net.isIP(host) !== 0) return host
  try {
    return (await process.getBuiltinModule('node:dns/promises').lookup(host)).address
  } catch (error) {
    throw new SystemError(codeOf(error), 'getaddrinfo', host, { cause: error })
  }
}

/** Takes ownership of a TCP or Unix socket that is already bound. */
export function adoptSocket(fd: number, endpoint: string): BoundSocket {
  const handle = createServerHandle('', 0, 0, fd)
  if (typeof handle === 'number') throw SystemError.fromErrno(handle, 'open', endpoint)
  return released(handle, endpoint)
}

function released(handle: Handle, endpoint: string): BoundSocket {
  const close = () => handle.close()
  return { fd: handle.fd, handle, endpoint, close, abandon: close }
}

/** A socket inherited from the previous master as a descriptor of this process; `file` is empty if it made none. */
export function inheritSocket(fd: number, endpoint: string, { transport }: Address, file: string): BoundSocket {
  if (transport !== 'udp')
    return file === '' ? adoptSocket(fd, endpoint) : withFile(adoptSocket(fd, endpoint), endpoint, file)
  const close = () => closeSync(fd)
  return { fd, handle: null, endpoint, close, abandon: close }
}

async function bindUnix(path: string, backlog: number, who: Credentials | null, sys: Sys | null): Promise<BoundSocket> {
  const isKnown = await removeStaleSocket(path, who).catch((cause: unknown) => {
    throw new SystemError(codeOf(cause), 'bind', path, { cause })
  })
  try {
    return withRightsOf(who, () => (sys === null ? bindUnixWithNode(path) : listeningUnix(sys, path, backlog)))
  } catch (error) {
    if (!isKnown && error instanceof SystemError && error.code === 'EADDRINUSE') error.message += unknown(who)
    throw error
  }
}

function unknown(who: Credentials | null): string {
  const name = who === null ? 'this user' : `'${nameOf(who)}'`
  return `: ${name} may not connect to it, to see whether it is in use; if it is not, remove it`
}

function bindUnixWithNode(path: string): BoundSocket {
  const handle = createServerHandle(path, -1, -1)
  if (typeof handle === 'number') throw unixError(handle, path)
  const file = fileId(path)
  return {
    fd: handle.fd,
    handle,
    endpoint: path,
    file,
    close: (who = null) => withRightsOf(who, () => closeUnix(() => handle.close(), path, file)),
    abandon: nothing, // libuv would unlink it, whoever owns it now; the end of this process closes it
  }
}

function listeningUnix(sys: Sys, path: string, backlog: number): BoundSocket {
  return withFile(listening(sys, { transport: 'unix', host: '', port: 0, path }, backlog), path)
}

/** Adds the file of a socket that is a mere descriptor, of whose name libuv does not know. */
function withFile(bound: BoundSocket, path: string, file = fileId(path)): BoundSocket {
  const unlink = () => {
    if (fileId(path) === file) unlinkSync(path)
  }
  const close = (who: Credentials | null = null) => {
    bound.close()
    withRightsOf(who, unlink)
  }
  return { ...bound, file, close }
}

/** libuv returns EACCES for ENOENT here, "for compat with Windows". */
function unixError(errno: number, path: string): SystemError {
  if (!existsSync(dirname(path))) return new SystemError('ENOENT', 'bind', path)
  return SystemError.fromErrno(errno, 'bind', path)
}

/**
 * Closes a socket of libuv, which unlinks by name then, even if another process owns the name now: a file that is not
 * ours (see `fileId`) is kept under another name meanwhile. Throws a system error if it cannot, and has closed nothing.
 */
export function closeUnix(close: () => void, path: string, ours: string): void {
  const found = fileId(path)
  if (found === '' || found === ours || isDirectory(path)) return close()
  const aside = `${path}.${process.pid}`
  linkSync(path, aside)
  close()
  renameSync(aside, path)
}

/**
 * Removes a socket file that outlived its process: it is stale if nothing behind it answers. Returns false if this is
 * unknown, since the user may not connect to it: it is not ours to remove.
 * @param who with whose rights; null: those of this process
 */
export async function removeStaleSocket(path: string, who: Credentials | null = null): Promise<boolean> {
  const before = fileId(path)
  if (before === '') return true
  const outcome = await probe(path, who)
  if (!isSocket(path)) return true // bind will fail with EADDRINUSE, as where something answers
  if (outcome !== 'ECONNREFUSED' || isBound(path)) return outcome !== 'EACCES'
  withRightsOf(who, () => {
    if (fileId(path) === before) unlinkSync(path)
  })
  return true
}

/** The code of connect(2)'s error; empty if something listens there. */
function probe(path: string, who: Credentials | null): Promise<string> {
  return new Promise((resolve) => {
    const socket = withRightsOf(who, () => net.connect(path)) // connect(2) has run when this returns
    socket.once('connect', () => {
      socket.destroy()
      resolve('')
    })
    socket.once('error', (error) => resolve(codeOf(error)))
  })
}

function isDirectory(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}

/**
 * Whether a live socket has that name without listening yet: another server just starting. In /proc/net/unix, St is 01
 * for a bound socket and 03 for one with a peer; without that file it is unknown.
 */
function isBound(path: string): boolean {
  try {
    const lines = readFileSync('/proc/net/unix', 'latin1').split('\n')
    const name = Buffer.from(path).toString('latin1')
    return lines.some((line) => line.endsWith(` ${name}`) && / 01 +\d+ /.test(line))
  } catch {
    return false // ENOENT
  }
}

function isSocket(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSocket() ?? false
}

/**
 * Device, inode and, since inodes are reused at once, birth time where that can be seen; empty when there is no such
 * file.
 */
export function fileId(path: string): string {
  const stat = lstatSync(path, { throwIfNoEntry: false, bigint: true })
  return stat === undefined ? '' : fileIdOf(stat)
}

/** @param isBirthSeen see `seesBirth` */
export function fileIdOf({ dev, ino, birthtimeNs }: BigIntStats, isBirthSeen = seesBirth()): string {
  return `${dev}:${ino}:${isBirthSeen ? birthtimeNs : 0}`
}

let isSeen: boolean | null = null

/**
 * Whether the birth time is one. Where statx(2) is forbidden (by the seccomp filter of Docker before 18.04), libuv has
 * the time of the last change in its place, which chmod and rename move. Files in /proc have none: there it shows.
 */
function seesBirth(): boolean {
  isSeen ??= !lstatSync('/proc/self', { throwIfNoEntry: false, bigint: true })?.birthtimeNs
  return isSeen
}
