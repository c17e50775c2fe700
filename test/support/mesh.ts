// A process's end of the mesh, run in this process; several of them talk over real sockets.

import net from 'node:net'
import type { SendError } from '../../src/errors.ts'
import type { Call } from '../../src/messaging/call.ts'
import { Mesh, type MeshHost } from '../../src/messaging/mesh.ts'
import type { Outbox, OutboxSettings } from '../../src/messaging/outbox.ts'
import { bindMeshSocket } from '../../src/net/mesh-socket.ts'
import { nodeEngine } from '../../src/net/node-engine.ts'
import type { PeerBeside, PeerRow } from '../../src/process/group.ts'
import type { Transport } from '../../src/transport.ts'

export const SECRET = Buffer.alloc(32, 9)

interface Limits {
  readonly maxPackageSize?: number
  readonly maxMailboxMessages?: number
  readonly maxMailboxBytes?: number
  readonly serial?: boolean
  /** How long messages wait for a peer. */
  readonly mailboxTimeoutMs?: number
}

/** A worker whose messages go to `onMessage`. */
export class Host implements MeshHost {
  readonly name = 'here'
  readonly id = 0
  readonly incarnation = 1
  readonly serial: boolean
  readonly maxPackageSize: number
  readonly maxMailboxMessages: number
  readonly maxMailboxBytes: number
  readonly mailboxTimeoutMs: number
  readonly counters = { messagesIn: 0, handlerErrors: 0, refused: 0 }
  /** Code, `mayHaveBeenHandled` and message of each failure. */
  readonly failed: unknown[] = []
  onMessage: (message: unknown, call: Call) => unknown = () => undefined
  onFull: (outbox: Outbox) => void = () => undefined
  onDrain: (outbox: Outbox) => void = () => undefined
  /** What is held for this process itself has become little. */
  onOwnDrain: () => unknown = () => undefined
  onFail: (error: SendError, message: unknown) => void = () => undefined
  workerHandler = (_from: unknown, message: unknown, call: Call) => this.onMessage(message, call)

  constructor({
    maxPackageSize = 1000,
    maxMailboxMessages = 4,
    maxMailboxBytes = 100_000,
    serial = false,
    mailboxTimeoutMs = 300,
  }: Limits = {}) {
    this.mailboxTimeoutMs = mailboxTimeoutMs
    this.maxMailboxBytes = maxMailboxBytes
    this.maxPackageSize = maxPackageSize
    this.maxMailboxMessages = maxMailboxMessages
    this.serial = serial
  }

  working(): void {
    // No worker leaves here.
  }
  declared = () => 0
  onOwnFull(): void {
    // The answer of `publish` says so.
  }
  refusedToSend = (error: SendError, message: unknown) => this.#failed(error, message)
  settingsFor(): OutboxSettings {
    const { maxMailboxMessages, maxMailboxBytes, maxPackageSize, mailboxTimeoutMs } = this
    return {
      ...{ maxMailboxMessages, maxMailboxBytes, maxPackageSize, mailboxTimeoutMs },
      onSendFail: (error, message) => this.#failed(error, message),
      onFull: (outbox) => this.onFull(outbox),
      onDrain: (outbox) => this.onDrain(outbox),
    }
  }

  #failed(error: SendError, message: unknown): void {
    const { code, mayHaveBeenHandled } = error
    this.failed.push([code, mayHaveBeenHandled, message])
    this.onFail(error, message)
  }
}

/** The row of the only reachable peer, `there` with id 0. */
export function rowOf(address: string, incarnation = 1): PeerRow {
  return { mailbox: 'there', group: 'there', id: 0, incarnation, address, next: 'soon' }
}

/** The same, with another process of its slot beside the one there. */
export function rowBeside(address: string, other: string, role: PeerBeside['role'], incarnation = 1): PeerRow {
  const beside = { incarnation: role === 'canary' ? incarnation + 1 : incarnation - 1, address: other, role }
  return { ...rowOf(address, incarnation), beside: [beside] }
}

/** @param peer the address of `there`, if it is reachable */
export function meshOf(
  host: Host,
  peer = '',
  transport: Transport = nodeEngine,
): { mesh: Mesh; address: string; close(): void } {
  const { fd, address, close } = bindMeshSocket('/nowhere')
  const rows = peer === '' ? [] : [rowOf(peer)]
  const place = { fd, address, secret: SECRET.toString('base64'), mailbox: 'here', rows, isEnding: false }
  const mesh = new Mesh(host, place, transport)
  const leave = () => {
    mesh.close()
    close()
  }
  return { mesh, address, close: leave }
}

/** A peer that runs and says nothing: whoever connects to it waits. */
export async function silentPeer(): Promise<{ address: string; close(): void }> {
  const { fd, address, close } = bindMeshSocket('/nowhere')
  const sockets = new Set<net.Socket>()
  const server = net.createServer((socket) => sockets.add(socket.on('error', () => undefined)))
  await new Promise<void>((resolve) => server.listen({ fd }, resolve))
  const leave = () => {
    server.close()
    for (const socket of sockets) socket.destroy()
    close()
  }
  return { address, close: leave }
}
