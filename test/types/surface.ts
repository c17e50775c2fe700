// Type tests of the public surface: compiled by `tsc --noEmit` in the test run, never executed. What stands in a public
// signature can be named, and settings are what the properties of their class are.

import type {
  AnswerParts,
  AnyConnection,
  AsyncTcpConnection,
  BodyMode,
  BodyValue,
  ClientSettings,
  CompressionSettings,
  Cookies,
  Exported,
  Fields,
  FieldValue,
  FileRequest,
  FormValue,
  HeadLimits,
  HttpSettings,
  OnWorkerMessage,
  ProtocolErrorOptions,
  ReloadMode,
  Request,
  RequestBody,
  Response,
  SendError,
  StaticRequest,
  staticFiles,
  UdpConnection,
  UdpHost,
  WebSocketSettings,
  Worker,
  WorkerSettings,
} from 'millrace'

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false
declare function expect<A, B>(equal: Equal<A, B>): void

// A WebSocket's server is asked, and its client answered; a connection of either kind is one.
type Handler<T extends { onWebSocketConnect?: ((...args: never) => unknown) | null }> = NonNullable<
  T['onWebSocketConnect']
>
expect<Parameters<Handler<Worker>>[1], Request>(true)
expect<Parameters<Handler<AsyncTcpConnection>>[1], Response>(true)
expect<Parameters<Handler<ClientSettings<unknown>>>[1], Response>(true)
expect<AsyncTcpConnection extends AnyConnection ? true : false, true>(true)
export function declared(make: typeof Worker): Worker {
  return new make('ws://x:1', {
    onWebSocketConnect: (_connection, request, response) => void response.setHeader('X-Path', request.path),
  })
}
export function onConnect(connection: AnyConnection): void {
  connection.onWebSocketConnect = (_connection, request, response) =>
    void response.setHeader('X-Room', request.get('room')?.toString() ?? request.header('x-room', 'none'))
}

type Settings = WorkerSettings<'text://x:1', unknown>
expect<Settings['count'], number | undefined>(true)
expect<Settings['reloadMode'], ReloadMode | undefined>(true)
expect<Settings['execArgv'], readonly string[] | undefined>(true)
expect<Settings['onWorkerStart'], Worker<'text://x:1', unknown>['onWorkerStart'] | undefined>(true)
expect<Required<ClientSettings<unknown>>['connectTimeoutMs'], AsyncTcpConnection['connectTimeoutMs']>(true)
expect<Required<ClientSettings<unknown>>['lingerTimeout'], number>(true)

expect<Parameters<Response['setHeader']>[1], FieldValue>(true)
expect<Parameters<ReturnType<typeof staticFiles>>[0], StaticRequest>(true)
expect<StaticRequest extends FileRequest ? true : false, true>(true)
expect<HttpSettings['maxFields'], HeadLimits['maxFields'] | undefined>(true)
expect<HttpSettings['body'], BodyMode | ((request: Request) => BodyMode) | undefined>(true)
expect<WebSocketSettings['compression'], boolean | CompressionSettings | undefined>(true)
expect<Request['cookies'], Cookies>(true)
expect<Request['headers'], Fields>(true)
expect<Request['body'], RequestBody>(true)
expect<UdpConnection['worker'], UdpHost>(true)
expect<NonNullable<Worker['onWorkerMessage']>, OnWorkerMessage>(true)
expect<Parameters<NonNullable<Worker['onSendFail']>>[0], SendError>(true)
expect<
  [AnswerParts['status'], Exported['rest'], ProtocolErrorOptions['offset']],
  [number, Uint8Array, number | undefined]
>(true)

// What a client decides is not promised; a fallback is what there is without a parameter.
declare const request: Request
export const parameters = (): void => {
  const name = request.post('name', '')
  expect<typeof name, NonNullable<BodyValue>>(true)
  // @ts-expect-error JSON may have a number here
  if (typeof name !== 'object') name.toUpperCase()
  expect<ReturnType<typeof request.json>, unknown>(true)
  const posted = request.post('name')
  expect<typeof posted, BodyValue | undefined>(true)
  const asked = request.get('name', 'world')
  expect<typeof asked, FormValue>(true)
  if (typeof asked !== 'object') asked.toUpperCase()
  const maybe = request.get('name')
  expect<typeof maybe, FormValue | undefined>(true)
}
