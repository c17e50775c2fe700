// Finds where a process hangs. SIGUSR1 opens Node's inspector even in an endless loop, and `Debugger.pause` reports the
// stack. Nothing of this exists before a process hangs, and the process is killed right after. The port is on loopback;
// its address contains a secret that only the master reads (QUIET_INSPECTOR in node-flags.ts).
//
// The inspector speaks RFC 6455; this is the part needed: one client, short text frames out, text frames in.

import { randomBytes } from 'node:crypto'
import { connect, type Socket } from 'node:net'

/** Limit for everything: the process hangs already and should be replaced soon. */
const TIMEOUT_MS = 3000
const MOST_BYTES = 64 * 1_048_576
const MOST_FRAMES = 30

interface CallFrame {
  readonly functionName: string
  readonly location: { readonly scriptId: string; readonly lineNumber: number; readonly columnNumber: number }
}

/** What the inspector sends unasked: each script once debugging is on, then the pause. */
type Said =
  | { method: 'Debugger.scriptParsed'; params: { readonly scriptId: string; readonly url: string } }
  | { method: 'Debugger.paused'; params: { readonly callFrames: readonly CallFrame[] } }
  | { method?: undefined }

/**
 * The JavaScript stack of a process, as lines of `    at name (url:line:column)`. Empty if no JavaScript is running (a
 * system call that does not return) or if the stack is unavailable. `url` resolves with the inspector's address once it
 * is open. Never rejects.
 */
export async function hungStack(pid: number, url: Promise<string>): Promise<string> {
  let late: NodeJS.Timeout | undefined
  const end = new Promise<string>((resolve) => {
    late = setTimeout(resolve, TIMEOUT_MS, '')
  })
  const abort = new AbortController()
  try {
    process.kill(pid, 'SIGUSR1')
    return await Promise.race([end, url.then((address) => stackAt(address, abort.signal))])
  } catch {
    return '' // ESRCH, ECONNREFUSED or a bad address: the kill does not wait for it
  } finally {
    clearTimeout(late)
    abort.abort()
  }
}

function stackAt(address: string, signal: AbortSignal): Promise<string> {
  const { hostname, port, pathname } = new URL(address)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname)
    socket.once('error', reject)
    signal.addEventListener('abort', () => socket.destroy())
    const key = randomBytes(16).toString('base64')
    const head = ['Upgrade: websocket', 'Connection: Upgrade', `Sec-WebSocket-Key: ${key}`, 'Sec-WebSocket-Version: 13']
    socket.write(`GET ${pathname} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n${head.join('\r\n')}\r\n\r\n`)
    const onOpen = () => {
      send(socket, { id: 1, method: 'Debugger.enable' })
      send(socket, { id: 2, method: 'Debugger.pause' })
    }
    const urls = new Map<string, string>()
    const onText = (text: string) => {
      const said = JSON.parse(text) as Said
      if (said.method === 'Debugger.scriptParsed') urls.set(said.params.scriptId, said.params.url)
      if (said.method === 'Debugger.paused') resolve(rendered(said.params.callFrames, urls))
    }
    const read = messageReader(onOpen, onText) // the inspector does not read what comes with the handshake
    socket.on('data', (bytes: Buffer) => {
      try {
        if (!read(bytes)) reject(new Error('too much'))
      } catch (error) {
        reject(error) // not the inspector's protocol
      }
    })
  })
}

function rendered(frames: readonly CallFrame[], urls: ReadonlyMap<string, string>): string {
  return frames
    .slice(0, MOST_FRAMES)
    .map(({ functionName, location: { scriptId, lineNumber, columnNumber } }) => {
      const place = `${urls.get(scriptId)}:${lineNumber + 1}:${columnNumber + 1}`
      return functionName === '' ? `    at ${place}` : `    at ${functionName} (${place})`
    })
    .join('\n')
}

/** Sends a masked text frame of fewer than 126 bytes. RFC 6455 section 5.2. */
function send(socket: Socket, command: object): void {
  const text = Buffer.from(JSON.stringify(command))
  const mask = randomBytes(4)
  socket.write(
    Buffer.concat([Buffer.of(0x81, 0x80 | text.length), mask, text.map((byte, at) => byte ^ (mask[at & 3] ?? 0))]),
  )
}

/** Reads the answer to the handshake, then frames. The returned function returns false when there is too much. */
function messageReader(onOpen: () => void, onText: (text: string) => void): (bytes: Buffer) => boolean {
  let isOpen = false
  let rest: Buffer[] = []
  let size = 0
  let wanted = 0
  return (bytes) => {
    rest.push(bytes)
    size += bytes.length
    if (size > MOST_BYTES) return false
    if (size < wanted) return true
    let all = Buffer.concat(rest)
    if (!isOpen) {
      const end = all.indexOf('\r\n\r\n')
      if (end < 0) return true
      isOpen = true
      onOpen()
      all = all.subarray(end + 4)
    }
    const left = readFrames(all, onText)
    rest = [left]
    size = left.length
    wanted = frameOf(left)?.end ?? 0
    return true
  }
}

/** Returns the rest: the start of an incomplete frame. */
function readFrames(bytes: Buffer, onText: (text: string) => void): Buffer {
  let left = bytes
  for (let frame = frameOf(left); frame !== null && left.length >= frame.end; frame = frameOf(left)) {
    onText(left.toString('utf8', frame.start, frame.end))
    left = left.subarray(frame.end)
  }
  return left
}

/** Where the payload of the first frame lies; null until its head is complete. A server does not mask. */
function frameOf(bytes: Buffer): { start: number; end: number } | null {
  if (bytes.length < 2) return null
  const short = bytes.readUInt8(1) & 0x7f
  const start = short === 127 ? 10 : short === 126 ? 4 : 2
  if (bytes.length < start) return null
  const length = short === 127 ? Number(bytes.readBigUInt64BE(2)) : short === 126 ? bytes.readUInt16BE(2) : short
  return { start, end: start + length }
}
