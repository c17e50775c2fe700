// WebSocket (RFC 6455, RFC 7692), for servers and clients, written against the plugin interface of ../README.md.

import type { CodecIo, CodecProtocol } from '../../src/protocol.ts'
import { WebSocketCodec } from './codec.ts'
import { type DeflateEngine, plainDeflate } from './deflate.ts'
import { PreparedMessage, type WebSocketMessage } from './messages.ts'
import { resolved, type WebSocketSettings } from './settings.ts'

export type WebSocketProtocol = CodecProtocol<string | Buffer, WebSocketMessage>

/** What only the package itself can give: what compresses. @internal */
export interface WebSocketServices {
  readonly deflate: DeflateEngine
}

/** @internal */
export function websocketWith(services: WebSocketServices): (settings?: WebSocketSettings) => WebSocketProtocol {
  return (settings = {}) => {
    const all = resolved(settings, services.deflate)
    return {
      name: 'websocket',
      isLongLived: true,
      open: (io, role) => new WebSocketCodec(io as CodecIo<string | Buffer>, all, role === 'server'),
      prepare: (message) => (message instanceof PreparedMessage ? message : new PreparedMessage(message as string)),
    }
  }
}

/** A text is a string, a binary message a Buffer. */
export const websocket = websocketWith({ deflate: plainDeflate })
