// The kinds of error in this package, by who is to blame: the peer (ProtocolError), the caller (UsageError), the
// machine (SystemError), nobody (AbortError). Match them by `code`, not by `instanceof`: a process can contain two
// copies of a package. "Not enough bytes yet" is a value (NEED_MORE), never an error.

/** What a ProtocolError may carry besides code and message. */
export interface ProtocolErrorOptions {
  /** What a codec may send the peer before it closes: an HTTP status, a WebSocket close code. */
  statusHint?: number
  closeCode?: number
  /** Position of the offending byte, counted from the first byte of the packet. */
  offset?: number
  cause?: unknown
}

/**
 * The peer broke the protocol. Affects only that connection: `onError(connection, 3, message, error)` is called, then
 * it closes.
 */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError'
  /** Stable, for use in programs: `ERR_PACKET_TOO_LARGE`. */
  readonly code: string
  /** The HTTP status that fits. */
  readonly statusHint: number | undefined
  /** The WebSocket close code that fits. */
  readonly closeCode: number | undefined
  /** Position of the offending byte, counted from the first byte of the packet. */
  readonly offset: number | undefined

  constructor(code: string, message: string, options: ProtocolErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined)
    this.code = code
    this.statusHint = options.statusHint
    this.closeCode = options.closeCode
    this.offset = options.offset
  }
}

/** The caller broke a rule of this package. Thrown synchronously. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
  /** Stable, for use in programs: `ERR_BAD_OPTION`. */
  readonly code: string

  constructor(code: string, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.code = code
  }
}

/** The `reason` of a signal. Named like the error of an aborted `fetch`, since much code looks for that name. */
export class AbortError extends Error {
  override readonly name = 'AbortError'
  /** Stable, for use in programs: `ERR_CONNECTION_CLOSED`. */
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/** A message to another worker did not get through, or no answer arrived. */
export class PeerError extends Error {
  override readonly name = 'PeerError'
  /** ERR_PEER_LOST, ERR_QUEUE_FULL, ERR_REQUEST_TIMEOUT, ERR_NO_HANDLER, ERR_NO_RESPONDERS, ERR_CANNOT_CLONE */
  readonly code: string
  /** Whether the other worker, or a member of a queue that has it, may have started on it; false is certain. */
  readonly mayHaveBeenHandled: boolean

  constructor(code: string, message: string, mayHaveBeenHandled: boolean) {
    super(message)
    this.code = code
    this.mayHaveBeenHandled = mayHaveBeenHandled
  }
}

/** The handler of a request threw, in another process. Has the name, message and code of its error. */
export class RemoteError extends Error {
  override readonly name: string
  /** Empty when the error had none. */
  readonly code: string
  /** As in PeerError: a handler has started. (The handler may have thrown a PeerError itself.) */
  readonly mayHaveBeenHandled = true

  constructor(name: string, message: string, code: string) {
    super(message)
    this.name = name
    this.code = code
  }
}

/** Error passed to `onSendFail`: a message was refused, was lost, or had no handler. */
export type SendError = PeerError | RemoteError

/** A system call failed. The message reads `bind 0.0.0.0:80: EACCES (permission denied)`. */
export class SystemError extends Error {
  override readonly name = 'SystemError'
  /** The errno's name: `EADDRINUSE`. */
  readonly code: string
  /** The system call, such as `bind`. */
  readonly syscall: string
  /** What the call was made on: `127.0.0.1:80`, a path, a descriptor. Empty if nothing applies. */
  readonly address: string

  constructor(code: string, syscall: string, address = '', options?: { cause?: unknown }) {
    super(`${syscall}${address && ` ${address}`}: ${code}${explain(code)}`, options)
    this.code = code
    this.syscall = syscall
    this.address = address
  }

  /** Makes an error from libuv's negative errno, as Node's internal handles return it. */
  static fromErrno(errno: number, syscall: string, address = ''): SystemError {
    return new SystemError(errnos().get(errno)?.[0] ?? `errno ${errno}`, syscall, address)
  }
}

/** What a system call threw, as a SystemError that names it. */
export function systemErrorOf(error: unknown, syscall: string, address: string): SystemError {
  return error instanceof SystemError ? error : new SystemError(codeOf(error), syscall, address, { cause: error })
}

let known: Map<number, [name: string, text: string]> | null = null

/** Cached, since Node makes a new map at each call: a flood of failing datagrams would pay for two each. */
function errnos(): Map<number, [name: string, text: string]> {
  known ??= process.getBuiltinModule('node:util').getSystemErrorMap()
  return known
}

function explain(code: string): string {
  for (const [name, text] of errnos().values()) if (name === code) return ` (${text})`
  return ''
}

/** The options without undefined ones, which keep their defaults. */
export function defined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>
}

/** Whether a call returns. For callers that know why it would throw. */
export function works(call: () => unknown): boolean {
  try {
    call()
    return true
  } catch {
    return false // the caller says what
  }
}

type ErrorProperty = 'name' | 'message' | 'code' | 'stack' | 'cause' | 'closeCode' | 'statusHint'

/**
 * A property of anything thrown; undefined if it is missing or cannot be read: a getter or a Proxy may throw in turn.
 */
export function propertyOf(thrown: unknown, name: ErrorProperty): unknown {
  try {
    return Object(thrown)[name]
  } catch {
    return undefined
  }
}

/** The `code` of anything thrown, or an empty string. */
export function codeOf(error: unknown): string {
  const code = propertyOf(error, 'code')
  return code === undefined ? '' : messageOf(code)
}

/** Whether an error means there is no file to serve under a name; other errors of open(2) are the machine's fault. */
export function isNoFile(error: unknown): boolean {
  return /^(?:ENOENT|ENOTDIR|EISDIR|EACCES|ELOOP|ENAMETOOLONG|ENXIO)$/.test(codeOf(error))
}

/** For logs: the stack of anything thrown. */
export function stackOf(error: unknown): string {
  const stack = isInstance(error, Error) ? propertyOf(error, 'stack') : undefined
  return typeof stack === 'string' ? stack : messageOf(error)
}

/** The message of anything thrown: user code may throw a string, or something with no text at all. */
export function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error)
  } catch {
    return 'something that has no text' // TypeError: no toString(); or its own has thrown
  }
}

/** A value in an error about it. Text has quotes: "is 4: it must be a number" would contradict itself about '4'. */
export function quoted(value: unknown): string {
  if (typeof value === 'string') return `'${value}'`
  if (typeof value === 'bigint') return `${value}n`
  if (!Array.isArray(value)) return messageOf(value)
  return `[${value.map((one) => (Array.isArray(one) ? '[...]' : quoted(one))).join(', ')}]`
}

/** Anything thrown, as an Error whose name and message can be read. */
export function asError(thrown: unknown): Error {
  return isReadable(thrown) ? thrown : new Error(messageOf(thrown), { cause: thrown })
}

/** Whether anything thrown is an Error whose name and message can be read. */
export function isReadable(thrown: unknown): thrown is Error {
  if (!isInstance(thrown, Error)) return false
  return typeof propertyOf(thrown, 'name') === 'string' && typeof propertyOf(thrown, 'message') === 'string'
}

/** `instanceof` for anything thrown. */
export function isInstance<T>(thrown: unknown, type: abstract new (...args: never[]) => T): thrown is T {
  try {
    return thrown instanceof type
  } catch {
    return false // a Proxy that was revoked
  }
}
