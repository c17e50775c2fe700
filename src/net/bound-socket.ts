// A bound socket: made and owned by the master, inherited by every worker, so that a connection which arrives while no
// worker lives waits in the kernel's queue. It is bound here and listened on only by workers.
//
// Node has no public call for this without listening; `net._createServerHandle` is what node:cluster uses. On a port
// in use it gives a handle that is not bound (libuv keeps EADDRINUSE for listen), and a child would then listen on a
// random port of every interface. So the bound address is compared with the declared one.

import { lookup } from 'node:dns/promises'
import { existsSync, linkSync, lstatSync, readFileSync, renameSync, unlinkSync } from 'node:fs'
import net from 'node:net'
import { dirname } from 'node:path'
import { formatEndpoint } from '../endpoint.ts'
import { codeOf, SystemError } from '../errors.ts'
import type { Address } from './address.ts'

/** What `_createServerHandle` gives: a TCP or Pipe wrap of Node. */
interface Handle {
  readonly fd: number
  getsockname?(out: { address?: string; port?: number }): number
  close(): void
}

type CreateServerHandle = (address: string, port: number, family: number, fd?: number) => Handle | number
const createServerHandle = (net as unknown as { _createServerHandle: CreateServerHandle })._createServerHandle

export interface BoundSocket {
  /** Inheritable by a child; owned by `handle`. -1: each child binds the address itself. */
  readonly fd: number
  /** For `Transport.listen` in this same process. */
  readonly handle: unknown
  /** `127.0.0.1:8888` with the resolved port, `[::]:8888`, or a path. */
  readonly endpoint: string
  /** One process at a time can have it: two cannot overlap during a reload. */
  readonly isExclusive?: boolean
  /** Releases it, and a Unix socket's file if that is still ours. */
  close(): void
}

/** Binds an address, without listening. Rejects with a SystemError (EADDRINUSE, EACCES, EADDRNOTAVAIL, ENOTFOUND). */
export async function bindSocket(address: Address): Promise<BoundSocket> {
  return address.transport === 'unix' ? bindUnix(address.path) : bindTcp(address)
}

async function bindTcp({ host, port }: Address): Promise<BoundSocket> {
  const ip = await resolve(host)
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
  return { fd: handle.fd, handle, endpoint, close: () => handle.close() }
}

function isAsked(bound: number, asked: number): boolean {
  return asked === 0 ? bound !== 0 : bound === asked
}

/** The IP address of a host. Rejects with a SystemError. */
export async function resolve(host: string): Promise<string> {
  if (net.isIP(host) !== 0) return host
  try {
    return (await lookup(host)).address
  } catch (error) {
    throw new SystemError(codeOf(error), 'getaddrinfo', host, { cause: error })
  }
}

/** A TCP socket that is bound already; it belongs to the result. */
export function adoptSocket(fd: number, endpoint: string): BoundSocket {
  const handle = createServerHandle('', 0, 0, fd)
  if (typeof handle === 'number') throw SystemError.fromErrno(handle, 'open', endpoint)
  return { fd: handle.fd, handle, endpoint, close: () => handle.close() }
}

async function bindUnix(path: string): Promise<BoundSocket> {
  try {
    await removeStaleSocket(path)
  } catch (error) {
    throw new SystemError(codeOf(error), 'bind', path, { cause: error })
  }
  const handle = createServerHandle(path, -1, -1)
  if (typeof handle === 'number') throw unixError(handle, path)
  const file = fileId(path)
  return {
    fd: handle.fd,
    handle,
    endpoint: path,
    close: () => closeUnix(handle, path, file),
  }
}

/** libuv gives EACCES for ENOENT here, "for compat with Windows". */
function unixError(errno: number, path: string): SystemError {
  if (!existsSync(dirname(path))) return new SystemError('ENOENT', 'bind', path)
  return SystemError.fromErrno(errno, 'bind', path)
}

/** libuv unlinks by name when it closes, whoever holds the name now: what is not ours is kept under another meanwhile. */
function closeUnix(handle: Handle, path: string, ours: string): void {
  const found = fileId(path)
  if (found === '' || found === ours || isDirectory(path)) return handle.close()
  const aside = `${path}.${process.pid}`
  linkSync(path, aside)
  handle.close()
  renameSync(aside, path)
}

/** A socket file outlives its process. Nobody behind it answers: it is stale. */
export async function removeStaleSocket(path: string): Promise<void> {
  const before = fileId(path)
  if (before === '' || (await isAnswered(path))) return // bind will say EADDRINUSE
  if (fileId(path) === before) unlinkSync(path)
}

/** Whether somebody listens on a Unix socket. Not a socket at all counts as answered: it is not ours to remove. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect(path)
    probe.once('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.once('error', (error) => resolve(codeOf(error) !== 'ECONNREFUSED' || !isSocket(path) || isBound(path)))
  })
}

function isDirectory(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}

/**
 * Whether a living socket has that name without listening yet: another server that is just starting. St is 01 for one
 * that is bound, with a peer it is 03; without /proc/net/unix nobody can tell.
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

/** Device, inode and, since inodes are used again at once, time of birth; empty when there is no such file. */
export function fileId(path: string): string {
  const stat = lstatSync(path, { throwIfNoEntry: false, bigint: true })
  return stat === undefined ? '' : `${stat.dev}:${stat.ino}:${stat.birthtimeNs}`
}
