// How a socket reaches a running process: Node passes handles over its 'ipc' channel and over no other. The channel is
// used for handles only and hidden from user code: a program that checks whether it has a parent to talk to finds none.

import { createHook } from 'node:async_hooks'
import type { ChildProcess } from 'node:child_process'
import type { Socket } from 'node:net'
import { messageOf } from '../errors.ts'
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

/** A worker says here that it has a handle, and Node in it, under `--watch`, which files it has loaded. */
const MAX_LINE_BYTES = 16_384
const LINE_FEED = 10
/** To a handle. */
const ANSWERS = ['NODE_HANDLE_ACK', 'NODE_HANDLE_NACK']

/** Node's end of a channel. Calls `onread` with what has arrived, undefined for its end. */
interface Pipe {
  onread: (this: Pipe, bytes?: ArrayBuffer, ...more: unknown[]) => unknown
  /** Came with these bytes. */
  pendingHandle?: { close(): void } | null
}

/**
 * In the master: starts a worker that has such a channel. User code of the worker, perhaps with fewer rights than the
 * master, may write to it, and Node reads it: what it cannot read, it throws where nothing could catch it, what it does
 * not expect, it keeps, and a line may be endless. `refuse` is called instead, with what was wrong. Mere messages are
 * ignored.
 */
export function spawnWithHandleChannel(spawn: () => ChildProcess, refuse: (why: string) => void): ChildProcess {
  const made = new Set<unknown>()
  // Nothing else leads to Node's end. Hooks cost something, so they are on while the process is started only.
  const hook = createHook({ init: (_id, type, _trigger, pipe) => void (type === 'PIPEWRAP' && made.add(pipe)) })
  hook.enable()
  let child: ChildProcess
  try {
    child = spawn()
  } finally {
    hook.disable()
  }
  for (const stream of child.stdio ?? []) made.delete((stream as { _handle?: unknown } | null)?._handle)
  for (const pipe of made) guardReading(pipe as Pipe, refuse)
  guardEvents(child, refuse)
  return child
}

function guardReading(pipe: Pipe, refuse: (why: string) => void): void {
  const read = pipe.onread
  let size = 0
  pipe.onread = function (bytes, ...more) {
    const lineEnd = bytes === undefined ? -1 : new Uint8Array(bytes).lastIndexOf(LINE_FEED)
    size = bytes === undefined ? 0 : lineEnd < 0 ? size + bytes.byteLength : bytes.byteLength - lineEnd - 1
    if (size > MAX_LINE_BYTES) return refuse('an endless line')
    if (this.pendingHandle) {
      this.pendingHandle.close()
      this.pendingHandle = null
      return refuse('a handle')
    }
    try {
      return read.call(this, bytes, ...more)
    } catch (error) {
      return refuse(messageOf(error))
    }
  }
}

function guardEvents(child: ChildProcess, refuse: (why: string) => void): void {
  const emit = child.emit.bind(child) as (event: string | symbol, ...args: unknown[]) => boolean
  Object.assign(child, {
    emit: (event: string | symbol, ...args: unknown[]): boolean => {
      if (event !== 'internalMessage') return emit(event, ...args)
      const { cmd } = args[0] as { cmd?: string }
      try {
        if (!ANSWERS.includes(cmd ?? '')) refuse(`'${cmd}'`)
        else return emit(event, ...args)
      } catch (error) {
        refuse(messageOf(error)) // it has received what it was not sent
      }
      return true
    },
  })
  child.on('message', nothing) // of Node itself under `--watch`, or of what is preloaded: Node keeps it if nobody listens
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
