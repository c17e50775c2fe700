// The master's sockets. Each is bound once and kept as long as a group is declared on it or a process accepts on it.
// This one rule covers a reload that moves a group, a reload given up half-way, and the reload that undoes it.

import { addon } from '../../addon.ts'
import type { Sys } from '../../addon-types.ts'
import { parseEndpoint } from '../../endpoint.ts'
import { messageOf, SystemError, UsageError } from '../../errors.ts'
import { log } from '../../log.ts'
import { type Address, isAnyPort, isSamePlace, parseAddress } from '../../net/address.ts'
import { type BoundSocket, bindShared, bindSocket, fileId, inheritSocket, resolve } from '../../net/bound-socket.ts'
import { giveSocketFile, rightsAt, whyNot } from '../../net/socket-owner.ts'
import { boundByChildren, type UdpPorts, udpPorts } from '../../net/udp-ports.ts'
import type { Credentials } from '../../rights.ts'
import type { Declaration } from '../group.ts'
import { type ActivatedSocket, isMeant } from './activation.ts'

/** What the master knows of a socket that it has bound. */
interface Entry {
  readonly address: Address
  /** One of several on its port (SO_REUSEPORT). */
  readonly isShared: boolean
  /** Owner of a Unix socket; null: the user who started the master. */
  owner: Credentials | null
  /** Name of a service manager's socket; null for one that we bound. */
  readonly activatedAs: string | null
  /** Another master has it too, and leads: its file is not ours to remove, nor to give to anybody. */
  isLent: boolean
  /** Who is to own the file once this master leads; undefined: whoever does. */
  heir?: Credentials | null | undefined
}

/** A socket on its way to the next master, as JSON; `fd` is a descriptor of that process. */
export interface InheritedEntry extends Omit<Entry, 'isLent' | 'heir'> {
  /** -1 if each child binds the port itself. */
  readonly fd: number
  readonly endpoint: string
  /** For a Unix socket bound by a master: identifies its file. */
  readonly file: string
}

/** Backlog of a probe: it does not listen, since clients that connected to it would be reset. */
const NOT_LISTENING = 0

export class Sockets {
  readonly #all = new Map<BoundSocket, Entry>()
  /** Sockets of the start or reload in progress: they may have no group yet. */
  readonly #reserved = new Set<BoundSocket>()
  readonly #udp: UdpPorts
  /** The lines about missing files that have been logged. */
  #missing = new Set<string>()
  /** Whether `own` was called; applies to sockets it inherits. */
  #isOwner = false

  constructor(udp: UdpPorts = udpPorts()) {
    this.#udp = udp
  }

  /** Takes the sockets of a service manager, for any group that declares their address, now or later. */
  adopt(activated: readonly ActivatedSocket[]): void {
    for (const { socket, address, name } of activated)
      this.#all.set(socket, { address, isShared: false, owner: null, activatedAs: name, isLent: false })
  }

  /**
   * Descriptions of the service manager's sockets that are not among `used`: clients that connect to them wait in vain.
   */
  unused(used: Iterable<BoundSocket>): string[] {
    const taken = new Set(used)
    return [...this.#all].flatMap(([socket, { activatedAs }]) => {
      return activatedAs === null || taken.has(socket) ? [] : [`${socket.endpoint} (${activatedAs})`]
    })
  }

  /**
   * The socket of a declaration, or null without an address: one of `own` or any existing one, else a new one. Rejects
   * with a SystemError.
   */
  async reserve(declaration: Declaration, own: readonly BoundSocket[] = []): Promise<BoundSocket | null> {
    const { listen, transport, credentials, backlog } = declaration
    if (listen === '') return null
    const address = parseAddress(listen, transport === 'udp' ? transport : '')
    if (transport === 'udp') this.#udp.check(declaration)
    const socket =
      this.#find(address, own) ??
      (await this.#activated(address)) ??
      (await this.#bind(address, backlog, rightsAt(address, credentials)))
    this.giveTo(credentials, socket) // first: a socket that cannot be given is not kept
    this.keep(socket)
    return socket
  }

  /**
   * All sockets of a declaration: none, one or, with `reusePort`, one per process in the kernel's order. Without the
   * addon it is one for all, which is logged.
   */
  async reserveAll(declaration: Declaration, own: readonly BoundSocket[] = []): Promise<readonly BoundSocket[]> {
    const { sys, why } = addon()
    const { reusePort, listen, name } = declaration
    const activated = reusePort && listen !== '' ? await this.#activated(parseAddress(listen)) : null
    if (reusePort && sys !== null && listen !== '' && activated === null)
      return this.#reserveEach(declaration, own, sys)
    if (activated !== null) log(`${name}: no reusePort on a socket of the service manager; its processes share it`)
    else if (reusePort) log(`${name}: reusePort takes the addon (${why}); its processes share one socket`)
    const socket = await this.reserve(declaration, own)
    return socket === null ? [] : [socket]
  }

  async #reserveEach(
    { listen, count, backlog }: Declaration,
    own: readonly BoundSocket[],
    sys: Sys,
  ): Promise<readonly BoundSocket[]> {
    const address = parseAddress(listen)
    const all = [...this.#all.keys()].filter((socket) => {
      const entry = this.#all.get(socket)
      return own.includes(socket) && entry?.isShared === true && isSamePlace(entry.address, address)
    })
    const [first = await this.#probe(address)] = all.map(({ endpoint }) => endpoint)
    const { ip, port } = parseEndpoint(first)
    while (all.length < count) {
      const socket = bindShared(sys, ip, port, backlog) // the kernel numbers them in this order
      this.#all.set(socket, { address, owner: null, isShared: true, activatedAs: null, isLent: false })
      all.push(socket)
      if (all.length === 1) gather(sys, socket)
    }
    const used = all.slice(0, count)
    for (const socket of used) this.keep(socket)
    return used
  }

  /** Makes sure that no other process shares the port with us unnoticed. Resolves to the address with its port. */
  async #probe(address: Address): Promise<string> {
    const socket = await this.#bind(address, NOT_LISTENING)
    this.#close(socket)
    return socket.endpoint
  }

  /**
   * One of `own` at this address, else a new one; never another group's. A process asks for it, so the group's user
   * needs the right to bind it. Rejects with a SystemError or a UsageError.
   */
  async share(
    listen: string,
    { credentials, backlog }: Declaration,
    own: readonly BoundSocket[],
  ): Promise<BoundSocket> {
    const address = parseAddress(listen)
    if (address.transport === 'udp')
      throw new UsageError(
        'ERR_NOT_FOR_DATAGRAMS',
        `${listen}: listen() is for streams: declare a UDP address on a Worker`,
      )
    const isHere = (one: BoundSocket) => isSamePlace(this.#all.get(one)?.address, address) && !this.isMissing(one)
    const socket =
      (isAnyPort(address) ? undefined : own.find(isHere)) ??
      (await this.#activated(address)) ??
      (await this.#bind(address, backlog, credentials))
    this.giveTo(credentials, socket) // first: a socket that cannot be given is not kept
    this.keep(socket)
    return socket
  }

  /** A group uses it now. */
  unkeep(socket: BoundSocket): void {
    this.#reserved.delete(socket)
  }

  /** Reserves a socket, so that it stays whatever is declared. */
  keep(socket: BoundSocket): void {
    this.#reserved.add(socket)
  }

  /** The start or reload is over. */
  release(): void {
    this.#reserved.clear()
  }

  /** Each socket with its entry, for the next master; not those that are missing, which it makes anew. */
  list(): [BoundSocket, Omit<InheritedEntry, 'fd'>][] {
    const present = [...this.#all].filter(([socket]) => !this.isMissing(socket))
    return present.map(([socket, { address, isShared, owner, activatedAs }]) => {
      const { endpoint, file = '' } = socket
      return [socket, { address, isShared, owner, activatedAs, endpoint, file }]
    })
  }

  /** Takes a socket of the earlier master, which leads until `own`. Throws a SystemError. */
  inherit({ fd, endpoint, file, address, isShared, owner, activatedAs }: InheritedEntry): BoundSocket {
    const bound = fd < 0 ? boundByChildren(endpoint) : inheritSocket(fd, endpoint, address, file)
    const socket = activatedAs === null ? bound : { ...bound, isActivated: true }
    this.#all.set(socket, { address, isShared, owner, activatedAs, isLent: !this.#isOwner })
    return socket
  }

  /** From now on the next master is in charge of all. */
  lend(): void {
    this.#isOwner = false
    for (const entry of this.#all.values()) entry.isLent = true
  }

  /** From now on this master is in charge of all. */
  own(): void {
    this.#isOwner = true
    for (const [socket, entry] of this.#all) {
      entry.isLent = false
      if (entry.heir !== undefined) this.tryToGive(entry.heir, socket)
    }
  }

  /** Reserves all existing sockets. */
  keepAll(): void {
    for (const socket of this.#all.keys()) this.keep(socket)
  }

  /** Closes unused sockets, so that clients are refused instead of waiting in vain. */
  sweep(used: Iterable<BoundSocket>): void {
    const kept = new Set([...used, ...this.#reserved])
    for (const [socket, { activatedAs }] of [...this.#all])
      if (!kept.has(socket) && activatedAs === null) this.#close(socket) // one bound by others cannot be bound again
  }

  closeAll(): void {
    this.#reserved.clear()
    for (const socket of [...this.#all.keys()]) this.#close(socket)
  }

  /**
   * May find another group's socket, as only the name or the scheme may have changed. Port 0 matches none but `own`.
   */
  #find(address: Address, own: readonly BoundSocket[]): BoundSocket | undefined {
    const candidates = isAnyPort(address) ? own : [...own, ...this.#all.keys()]
    return candidates.find((socket) => {
      const entry = this.#all.get(socket)
      if (this.#reserved.has(socket) || entry?.isShared !== false || !isSamePlace(entry.address, address)) return false
      return !this.isMissing(socket)
    })
  }

  /**
   * Whether the file of a Unix socket of ours has been removed, or something else is in its place: no client finds it,
   * and only a new one helps.
   */
  isMissing(socket: BoundSocket): boolean {
    const found = this.#fileAt(socket)
    return found !== null && (found === '' || found !== socket.file)
  }

  /** What is at the path of a Unix socket of ours (see `fileId`); null if that is not our concern or cannot be seen. */
  #fileAt(socket: BoundSocket): string | null {
    const entry = this.#all.get(socket)
    if (entry === undefined || entry.address.transport !== 'unix' || entry.activatedAs !== null || entry.isLent)
      return null
    try {
      return fileId(entry.address.path)
    } catch {
      return null // ENOTDIR, EACCES: a new one could not be made either
    }
  }

  /** Logs, once for each Unix socket, that its file has gone or is somebody else's; a newer one of ours is not. */
  tellMissing(): void {
    const all = [...this.#all.keys()]
    const ours = new Set(all.map(({ file }) => file))
    const lines = all.flatMap((socket) => {
      const found = this.#fileAt(socket)
      return found === null || ours.has(found) ? [] : [missingLine(socket, found === '')]
    })
    for (const line of lines) if (!this.#missing.has(line)) log(line)
    this.#missing = new Set(lines)
  }

  /** A service manager's socket at this address, or at one that covers it, that no group uses yet. */
  async #activated(address: Address): Promise<BoundSocket | null> {
    const all = [...this.#all].filter(
      ([socket, { activatedAs }]) => activatedAs !== null && !this.#reserved.has(socket),
    )
    if (all.length === 0 || isAnyPort(address)) return null
    const ip = address.transport === 'unix' ? '' : await resolve(address.host)
    const [socket = null] = all.find(([, entry]) => isMeant(entry.address, { ...address, host: ip })) ?? []
    return socket
  }

  /** @param who with whose rights, who also owns the file of a Unix socket; null: the master's */
  async #bind(address: Address, backlog: number, who: Credentials | null = null): Promise<BoundSocket> {
    try {
      const socket = await (address.transport === 'udp' ? this.#udp.bind(address) : bindSocket(address, backlog, who))
      this.#all.set(socket, { address, owner: who, isShared: false, activatedAs: null, isLent: false })
      return socket
    } catch (error) {
      if (error instanceof SystemError) error.message += whyNot(error, address, who)
      throw this.#explain(error, address)
    }
  }

  /** Improves the error if we have the port ourselves, or had the path. */
  #explain(error: unknown, { transport, port, path }: Address): unknown {
    if (!(error instanceof SystemError) || error.code !== 'EADDRINUSE') return error
    const mine = [...this.#all].filter(([, { address }]) => {
      return address.transport === transport && address.port === port && address.path === path
    })
    const [socket] = mine.find(([one]) => !this.isMissing(one)) ?? mine[0] ?? []
    if (socket === undefined) return error
    const { endpoint } = socket
    if (this.isMissing(socket)) error.message += ': something else has taken its path from this server'
    else if (this.#reserved.has(socket)) error.message += `: another Worker of this program is at ${endpoint}`
    else error.message += `: this server itself is at ${endpoint}; 'restart' can change that, a reload cannot`
    return error
  }

  /**
   * Gives a Unix socket to the user who serves it, as Workerman does; one of another master that leads only when this
   * one does, since an upgrade may be given up. Changes a person has made since then stay. Throws a SystemError.
   */
  giveTo(owner: Credentials | null, socket: BoundSocket): void {
    const entry = this.#all.get(socket)
    if (entry?.address.transport !== 'unix' || entry.activatedAs !== null) return
    entry.heir = entry.isLent ? owner : undefined
    if (entry.isLent) return
    if (entry.owner?.uid === owner?.uid && entry.owner?.gid === owner?.gid) return
    const { path } = entry.address
    const own = { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 }
    if (giveSocketFile(path, socket.file ?? '', entry.owner ?? own, owner ?? own)) entry.owner = owner
    else log(`${path}: is not the socket that this server has made any more; whose it is stays as it is`)
  }

  /** As `giveTo`, where nothing can be given up any more: a failure is logged, and the socket stays whose it is. */
  tryToGive(owner: Credentials | null, socket: BoundSocket): void {
    try {
      this.giveTo(owner, socket)
    } catch (error) {
      log(messageOf(error)) // ENOENT: its file was deleted
    }
  }

  #close(socket: BoundSocket): void {
    const entry = this.#all.get(socket)
    this.#all.delete(socket)
    try {
      if (entry?.isLent === true) socket.abandon()
      else socket.close(entry === undefined ? null : rightsAt(entry.address, entry.owner))
    } catch (error) {
      log(messageOf(error)) // a Unix socket's file could not be removed
    }
  }
}

function missingLine({ endpoint }: BoundSocket, isGone: boolean): string {
  return isGone
    ? `${endpoint}: somebody has removed it, and no client finds it: 'reload' makes it anew`
    : `${endpoint}: something else is there now, and no client comes here: once that is gone, 'reload' makes it anew`
}

/** Whatever comes to a new port waits at its first socket, until the group chooses among those that are served. */
function gather(sys: Sys, first: BoundSocket): void {
  try {
    sys.chooseAmong(first.fd, [0])
  } catch (error) {
    log(`${first.endpoint}: the kernel chooses among its sockets by itself: ${messageOf(error)}`)
  }
}
