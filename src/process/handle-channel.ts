// How a socket reaches a process that runs already: Node passes handles over its 'ipc' channel and over no other. It is
// used for handles alone, and user code does not see it: a program that asks whether it has a parent to talk to has none.

import type { ChildProcess } from 'node:child_process'

/** Node delivers what begins like this to 'internalMessage', so that no listener of the user's for 'message' gets it. */
const COMMAND = 'NODE_MILLRACE_SOCKET'

interface SocketMessage {
  readonly cmd: typeof COMMAND
  readonly request: number
  readonly endpoint: string
}

/** What nobody has asked for: the socket of a sibling, in so many turns of standing in. Below 0, so that it is no request. */
export function standInRequest(turn: number): number {
  return -turn
}

/** In the master. The handle stays ours. `onFailure`: it cannot be passed on; of a child that is gone nobody waits. */
export function sendSocket(
  child: ChildProcess,
  { request, endpoint, handle }: { request: number; endpoint: string; handle: unknown },
  onFailure: (error: Error) => void = ignore,
): void {
  const message: SocketMessage = { cmd: COMMAND, request, endpoint }
  if (!child.connected) return
  child.send(message, handle as never, (error) => {
    if (error !== null) onFailure(error)
  })
}

/** In a worker, before any user code: takes the channel. */
export function receiveSockets(receive: (request: number, endpoint: string, handle: unknown) => void): void {
  const events = process as NodeJS.EventEmitter
  events.on('internalMessage', (message: Partial<SocketMessage>, handle: unknown) => {
    if (message.cmd === COMMAND) receive(message.request ?? 0, message.endpoint ?? '', handle)
  })
  Object.assign(process, { send: undefined, disconnect: ignore, connected: false })
}

function ignore(): void {
  // Node disconnects by itself when the master is gone, of which the private channel tells; and so it does of a child.
}
