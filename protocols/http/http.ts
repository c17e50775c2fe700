// HTTP/1.1 for servers (RFC 9110, RFC 9112), written against the plugin interface of ../README.md and nothing else.

import { UsageError } from '../../src/errors.ts'
import type { AnyProtocol, CodecIo, CodecProtocol, InOf, Role } from '../../src/protocol.ts'
import { HttpCodec } from './codec.ts'
import type { Answer } from './exchange.ts'
import { discardAnswer } from './release.ts'
import type { Request } from './request.ts'
import { type HttpServices, type HttpSettings, resolved } from './settings.ts'

/** What `http()` makes. */
export type HttpProtocol = CodecProtocol<Request, Answer>

/** What `http({ websocket })` makes: messages of a WebSocket without a handler of its own come to the Worker's, too. */
export type HttpProtocolWith<W> = CodecProtocol<Request | InOf<W>, Answer>

/** Makes `http(settings)` for callers that have a file system and a clock. */
export function httpWith(services: HttpServices): {
  <W extends AnyProtocol>(settings: HttpSettings & { readonly websocket: W }): HttpProtocolWith<W>
  (settings?: HttpSettings): HttpProtocol
} {
  return (settings: HttpSettings = {}): HttpProtocol => {
    const all = resolved(settings, services)
    return {
      name: 'http',
      isSerial: true,
      checkRole,
      open(io, role) {
        checkRole(role)
        return new HttpCodec(io as CodecIo<Request>, all)
      },
      refused: discardAnswer,
    }
  }
}

function checkRole(role: Role): void {
  if (role === 'client') throw new UsageError('ERR_NO_HTTP_CLIENT', 'http is for servers; as a client use fetch')
}
