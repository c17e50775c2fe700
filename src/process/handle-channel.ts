// How a socket reaches a running process: Node passes handles over its 'ipc' channel and over no other. The channel is
// used for handles only and hidden from user code: a program that checks whether it has a parent to talk to finds none.

import type { ChildProcess } from 'node:child_process'
import type { Socket } from 'node:net'
import { nothing } from '../nothing.ts'
import type { Handle } from '../transport.ts'

/** Node delivers messages with this prefix as 'internalMessage', so no 'message' listener of the user gets them. */
const COMMAND = 'NODE_MILLRACE_SOCKET'

interface SocketMessage {
  readonly cmd: typeof COMMAND
  readonly request: number
  readonly endpoint: string
}

/**
 * Request id of an unrequested socket: a sibling's, for this stand-in turn. Negative, so it matches no real request.
 */
export function standInRequest(turn: number): number {
  return -turn
}

/**
 * In the master. The handle stays ours. `onFailure` is called if it cannot be passed on, but not if the child has gone:
 * nothing waits for it then.
 */
export function sendSocket(
  child: ChildProcess,
  { request, endpoint, handle }: { request: number; endpoint: string; handle: Handle | Socket | null },
  onFailure: (error: Error) => void = nothing,
): void {
  const message: SocketMessage = { cmd: COMMAND, request, endpoint }
  if (!child.connected) return
  child.send(message, handle as never, (error) => {
    if (error !== null) onFailure(error)
  })
}

/** In a worker, before any user code: takes the channel and passes on each socket that arrives. */
export function receiveSockets(receive: (request: number, endpoint: string, handle: Handle | undefined) => void): void {
  const events = process as NodeJS.EventEmitter
  events.on('internalMessage', (message: Partial<SocketMessage>, handle: Handle | undefined) => {
    if (message.cmd === COMMAND) receive(message.request ?? 0, message.endpoint ?? '', handle)
  })
  // Node disconnects by itself when the other side has gone. The private channel reports that.
  Object.assign(process, { send: undefined, disconnect: nothing, connected: false })
}
