// Runs a web-standard application, `(request: Request) => Response`, as exported by Hono, Elysia, itty-router and
// others: `worker.onMessage = fetchHandler(app.fetch)`. Bodies stream in both directions.

import { ProtocolError, UsageError } from '../errors.ts'
import { check, isFunction, rule } from '../options.ts'

/** What is needed of a connection: any that accepts HTTP answers. */
export interface FetchSender {
  send(answer: unknown): boolean
}

/** What is needed of a request. */
export interface FetchRequest {
  readonly method: string
  readonly uri: string
  readonly scheme: string
  readonly host: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: AsyncIterable<Uint8Array>
  readonly remoteIp: string
  readonly signal: AbortSignal
}

/** Second argument of the application: what the web's Request has no field for. */
export interface FetchContext {
  /** The client, behind trusted proxies too. */
  readonly remoteIp: string
}

/** What a web-standard application exports as `fetch`. */
export type FetchApp = (request: Request, context: FetchContext) => Response | Promise<Response>

/**
 * Returns a handler for `http` Workers. Use it with `http({ body: 'stream' })`; otherwise bodies are collected first.
 * What the application throws is a handler error: status 500, and `onError`.
 */
export function fetchHandler(app: FetchApp): (connection: FetchSender, request: FetchRequest) => Promise<boolean> {
  check('the application of fetchHandler()', app, rule(isFunction, 'a function (request, { remoteIp })'))
  return async (connection, incoming) => {
    if (isAlien(incoming.method)) return connection.send(answerOf(new Response(ALIEN, { status: 501 })))
    const response = await app(webRequest(incoming), { remoteIp: incoming.remoteIp })
    if (!(response instanceof Response))
      throw new UsageError('ERR_NO_RESPONSE', 'a fetch handler gives a Response, or a promise of one')
    if (response.bodyUsed)
      throw new UsageError('ERR_BODY_READ', 'the body of this Response was read already: a clone() has it, too')
    return connection.send(answerOf(response))
  }
}

/** Methods that the web's Request refuses; proxies and debuggers use them. */
const REFUSED = /^(?:connect|trace|track)$/i
/** Request accepts these methods in any case as the same method, which they are not (RFC 9110 section 9.1). */
const RESPELLED = /^(?:delete|get|head|options|post|put)$/i

const ALIEN = 'no application here takes that method\n'

/** Whether an application could not see the method as it was sent. */
function isAlien(method: string): boolean {
  return REFUSED.test(method) || (RESPELLED.test(method) && method !== method.toUpperCase())
}

/**
 * The URL of the request. Scheme and host come from the connection and trusted proxies, even if the target has an
 * origin of its own. Throws ProtocolError for a host that the Host grammar accepts but URL does not.
 */
function urlOf({ uri, scheme, host }: FetchRequest): string {
  const target = uri === '*' ? '/' : uri.replace(/^[a-z]+:\/\/[^/?]*/i, '')
  const url = `${scheme}://${host || 'localhost'}${target}`
  if (URL.canParse(url)) return url
  throw new ProtocolError('ERR_BAD_HOST', 'there is no such host', { statusHint: 400 })
}

/**
 * A Request holds its signal's controller, and nothing else does: without the Request, an application that has kept the
 * signal alone would never hear of its client's end. So it lives as long as what its signal follows.
 */
const followers = new WeakMap<AbortSignal, Request>()

function webRequest(incoming: FetchRequest): Request {
  const { method, headers, body, signal } = incoming
  const hasBody = method !== 'GET' && method !== 'HEAD'
  const init: RequestInit & { duplex?: 'half' } = { method, headers: new Headers(headers), signal }
  if (hasBody) Object.assign(init, { body: ReadableStream.from(body), duplex: 'half' })
  const request = new Request(urlOf(incoming), init)
  followers.set(signal, request)
  return request
}

/** The parts of an answer: status, header fields, a stream. */
function answerOf(response: Response): object {
  const headers = [...response.headers].filter(([name]) => name !== 'set-cookie')
  for (const cookie of response.headers.getSetCookie()) headers.push(['set-cookie', cookie])
  const length = response.headers.get('content-length')
  return {
    status: response.status,
    reason: response.statusText,
    headers,
    size: length === null || !/^\d{1,15}$/.test(length) ? -1 : Number(length),
    body: response.body,
    close: () => (response.body?.locked === false ? response.body.cancel() : undefined), // else its reader ends it
  }
}
