// WebSocket (RFC 6455, RFC 7692), for servers and clients, written against the plugin interface of ../README.md.

import type { CodecIo, CodecProtocol } from '../../src/protocol.ts'
import type { Reading } from '../http/settings.ts'
import { WebSocketCodec } from './codec.ts'
import { plainDeflate } from './deflate.ts'
import { CloseFrame, PreparedMessage, type WebSocketMessage } from './messages.ts'
import { type Resolved, resolved, type WebSocketServices, type WebSocketSettings } from './settings.ts'

/** What `websocket()` makes. */
export interface WebSocketProtocol extends CodecProtocol<string | Buffer, WebSocketMessage> {
  /** The same protocol for requests passed on by HTTP, which are read by HTTP's rules. @internal */
  behind(http: Reading): WebSocketProtocol
}

/** @internal */
export function websocketWith(services: WebSocketServices): (settings?: WebSocketSettings) => WebSocketProtocol {
  return (settings = {}) => protocolOf(resolved(settings, services))
}

function protocolOf(all: Resolved): WebSocketProtocol {
  return {
    name: 'websocket',
    isLongLived: true,
    open: (io) => new WebSocketCodec(io as CodecIo<string | Buffer>, all),
    prepare: (message) => (isReady(message) ? message : new PreparedMessage(message as string)),
    behind: ({ head, isTrusted, log, sessions }) =>
      protocolOf({ ...all, head, log, sessions, isTrusted: either(all.isTrusted, isTrusted) }),
  }
}

/** A close frame is no message to encode: each connection closes with it. */
function isReady(message: WebSocketMessage): boolean {
  return message instanceof PreparedMessage || message instanceof CloseFrame
}

type Trust = Reading['isTrusted']

function either(one: Trust, other: Trust): Trust {
  if (one === null || other === null) return one ?? other
  return (ip) => one(ip) || other(ip)
}

/** Without the addon: every message stands alone. Trusts no proxy, and has no clock. @internal */
export const websocket = websocketWith({ deflate: plainDeflate, date: () => '', trusts: () => () => false })
