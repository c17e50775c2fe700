// WebSocket (RFC 6455, RFC 7692), for servers and clients, written against the plugin interface of ../README.md.

import type { CodecIo, CodecProtocol } from '../../src/protocol.ts'
import { WebSocketCodec } from './codec.ts'
import { type CompressionChoice, type DeflateEngine, plainDeflate } from './deflate.ts'
import { PreparedMessage, type WebSocketMessage } from './messages.ts'
import { resolved, type WebSocketSettings } from './settings.ts'

export type WebSocketProtocol = CodecProtocol<string | Buffer, WebSocketMessage>

/** What only the package itself can give: what compresses, one for each `websocket({ ... })`. @internal */
export interface WebSocketServices {
  readonly deflate: (settings: CompressionChoice) => DeflateEngine
}

/** @internal */
export function websocketWith(services: WebSocketServices): (settings?: WebSocketSettings) => WebSocketProtocol {
  return (settings = {}) => {
    const all = resolved(settings, services.deflate)
    return {
      name: 'websocket',
      isLongLived: true,
      open: (io) => new WebSocketCodec(io as CodecIo<string | Buffer>, all),
      prepare: (message) => (message instanceof PreparedMessage ? message : new PreparedMessage(message as string)),
    }
  }
}

/** Without the addon: every message stands alone. @internal */
export const websocket = websocketWith({ deflate: plainDeflate })
