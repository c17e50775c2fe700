// A WebSocket server on a socket in memory, the handshake a client sends, and the frames that the server writes.

import * as assert from 'uvu/assert'
import type { WebSocketSettings } from '../../protocols/websocket/settings.ts'
import { websocket } from '../../src/index.ts'
import { open, type Wire } from '../../src/testing.ts'
import { shown, wire } from './http.ts'
import { nextTurn } from './until.ts'

export const KEY = 'dGhlIHNhbXBsZSBub25jZQ=='
export const ASK = (more = '') =>
  `GET /chat?room=1 HTTP/1.1¶Host: h¶Upgrade: websocket¶Connection: Upgrade¶Sec-WebSocket-Key: ${KEY}¶Sec-WebSocket-Version: 13¶${more}¶`

export type Server = Wire<string | Buffer, unknown>

export function serve(settings: WebSocketSettings = {}, callbacks: object = {}, protocol = websocket): Server {
  return open(protocol(settings), { maxPackageSize: 1000, ...callbacks } as never) as unknown as Server
}

/** One whose handshake is done. */
export function opened(
  settings: WebSocketSettings = {},
  callbacks: object = {},
  more = '',
  protocol = websocket,
): Server {
  const server = serve(settings, callbacks, protocol)
  server.receive(wire(ASK(more)))
  assert.match(shown(server.written()), /^HTTP\/1\.1 101 /)
  return server
}

/** Server frames: opcode and payload, in hexadecimal. */
export function framesIn(bytes: Buffer): string[] {
  const frames: string[] = []
  for (let at = 0; at < bytes.length; ) {
    const second = bytes[at + 1] as number
    assert.ok(second < 128, 'a server does not mask')
    const headSize = second < 126 ? 2 : second === 126 ? 4 : 10
    const length =
      second < 126 ? second : second === 126 ? bytes.readUInt16BE(at + 2) : Number(bytes.readBigUInt64BE(at + 2))
    const opcode = ((bytes[at] as number) & 0x4f).toString(16)
    frames.push(opcode + bytes.toString('hex', at + headSize, at + headSize + length))
    at += headSize + length
  }
  return frames
}

export const textsIn = (bytes: Buffer) =>
  framesIn(bytes).map((one) => Buffer.from(one.slice(1), 'hex').toString('latin1'))

/** A close frame, as `framesIn` shows it. */
export const hex4 = (code: number) => `8${code.toString(16).padStart(4, '0')}`

/** Handlers that end when the test says so, in order. */
export function waiting(): { onMessage: () => Promise<void>; finish: () => Promise<void> } {
  const gates: (() => void)[] = []
  return {
    onMessage: () => new Promise((resolve) => gates.push(resolve)),
    async finish() {
      gates.shift()?.()
      await nextTurn()
    },
  }
}
