// What the addon offers: the contract between native/src/binding.cc and who calls it.

/** A descriptor that is closed exactly once: by `close()`, or when this object is garbage-collected. */
export interface Descriptor {
  /** -1 once closed. */
  readonly fd: number
  close(): void
  /** Returns the descriptor, which the caller must close: for a new owner such as `server.listen({ fd })`. */
  release(): number
}

export interface SocketToBind {
  readonly transport: 'tcp' | 'udp' | 'unix'
  /** An IP address; empty for a Unix socket. */
  readonly host: string
  readonly port: number
  readonly path: string
  readonly reusePort?: boolean
  /** For an IPv6 wildcard: accept IPv4 too. */
  readonly isDualStack?: boolean
}

/**
 * The `sys` part of the addon. All methods throw a SystemError with call and address, or a TypeError for bad arguments.
 */
export interface AcceptQueue {
  readonly length: number
  readonly limit: number
}

export interface Sys {
  /** Returns a bound socket that is not listening: CLOEXEC, non-blocking, SO_REUSEADDR for TCP. */
  bind(socket: SocketToBind): Descriptor
  /**
   * Returns a UDP socket connected to one peer, an IP address, so that it never receives datagrams of others. Source:
   * connect(2).
   */
  connectDatagrams(host: string, port: number): Descriptor
  listen(fd: number, backlog: number): void
  socketName(fd: number): { readonly family: 0 | 4 | 6; readonly address: string; readonly port: number }
  /** Returns the kind of a socket made elsewhere (by systemd, for example), and makes it CLOEXEC and non-blocking. */
  takeInherited(fd: number): 'listening' | 'datagrams' | 'other'
  /** `idleSeconds` 0 turns keep-alive off. */
  setKeepAlive(fd: number, idleSeconds: number): void
  setNoDelay(fd: number, isOn: boolean): void
  /**
   * Restricts which SO_REUSEPORT sockets of a port receive new connections: those with these indexes (in the order of
   * their bind), chosen at random.
   */
  chooseAmong(fd: number, places: readonly number[]): void
  /** How many connections wait in the queue of a listening TCP socket, and how many may. */
  acceptQueue(fd: number): AcceptQueue
  /** Bytes that the kernel has taken and the peer has not acknowledged. Source: SIOCOUTQ, tcp(7). */
  unacknowledgedBytes(fd: number): number
  /** Sends descriptors with SCM_RIGHTS. Returns how many of the bytes were sent. */
  sendDescriptors(socket: number, bytes: Uint8Array, fds: readonly number[]): number
  receiveDescriptors(
    socket: number,
    mostBytes: number,
  ): { readonly bytes: Buffer; readonly descriptors: readonly Descriptor[]; readonly hasEnded: boolean }
  /** Credentials of the other end of a Unix socket. */
  peerCredentials(fd: number): { readonly pid: number; readonly uid: number; readonly gid: number }
  duplicate(fd: number): Descriptor
  /** `to` is 0, 1 or 2. */
  duplicateOnto(from: number, to: number): void
  /** Throws ESRCH when `parent` has already ended. */
  setParentDeathSignal(signal: number, parent: number): void
  /** Makes orphaned descendants children of this process. */
  becomeReaper(): void
  /** Reaps dead children that are not among `known`. */
  reap(known: readonly number[]): readonly { readonly pid: number; readonly code: number; readonly signal: number }[]
  /** From now on children inherit only the descriptors that they are given, and 0, 1 and 2. */
  closeOnExec(): void
  /** Replaces this process with another program; returns only by throwing. */
  execute(path: string, args: readonly string[], env: Readonly<Record<string, string>>, keep: readonly number[]): never
  /** sd_notify(3). */
  notify(socketPath: string, text: string): void
  /** Creates memory of this many zero bytes, for processes that inherit the descriptor. */
  createMemory(bytes: number): Descriptor
  /**
   * Maps it: all processes see the same bytes, for as long as the ArrayBuffer lives. EINVAL for a descriptor of another
   * kind.
   */
  mapMemory(fd: number, bytes: number): ArrayBuffer
}

/** Where the parts of the rings begin, how many records each has room for, and how large a record is, in bytes. */
export interface RingsLayout {
  readonly header: number
  readonly events: number
  readonly sends: number
  readonly queued: number
  readonly send: number
  readonly receive: number
  readonly datagrams: number
  readonly maxEvents: number
  readonly maxSends: number
  readonly maxSlots: number
  readonly receiveBytes: number
  readonly sendBytes: number
  readonly maxDatagrams: number
  readonly datagramBytes: number
  readonly headerBytes: number
  readonly eventBytes: number
  readonly sendRecordBytes: number
  readonly endpointBytes: number
  readonly pairBytes: number
}

/**
 * The native engine beneath src/net/native-engine.ts, its only user. `onBatch` is called once for many events, in the
 * async context of `resource`; everything else goes through memory (native/src/rings.h). A slot and its generation
 * identify a descriptor: calls for one that is gone do nothing.
 */
export interface NativeEngine {
  /**
   * Returns the engine's own part of the rings, or the part whose bytes are lent to user code. A new ArrayBuffer each
   * time.
   */
  memory(isLent: boolean): ArrayBuffer
  layout(): RingsLayout
  /** These three take over a non-blocking descriptor and return its slot. */
  listen(fd: number): number
  adopt(fd: number, isPaused: boolean): number
  receiveDatagrams(fd: number): number
  generation(slot: number): number
  /** Gives a descriptor back, with the bytes not yet sent to its peer. */
  release(slot: number, generation: number): { readonly fd: number; readonly unsent: Buffer } | undefined
  /** Bytes the kernel has taken and the peer has not acknowledged; 0 if it does not say. */
  unacknowledged(slot: number, generation: number): number
  /** Makes a listener that could not accept try again. */
  wake(slot: number, generation: number): void
  /** Carries out what was recorded. Calls no user code. */
  flush(): void
  /**
   * Reads available bytes into `into`, as many as fit. Returns how many. 0: nothing is there, or an event comes first.
   */
  readInto(slot: number, generation: number, into: Uint8Array): number
  /** `flush`, then sends these bytes directly from their memory. */
  sendBytes(slot: number, generation: number, bytes: Uint8Array): void
}

/** Compresses messages with reference to earlier ones. Errors are SystemErrors: EBADF after `close()`. */
export interface Deflater {
  /** Memory allocated by zlib, in bytes. */
  readonly memory: number
  /** Compresses a message, without the final 00 00 ff ff (RFC 7692 section 7.2.1). */
  compress(bytes: Uint8Array): Buffer
  /** Makes the next message refer to nothing before it. */
  reset(): void
  close(): void
}

/** Decompresses what a Deflater has made. */
export interface Inflater {
  readonly memory: number
  /**
   * Decompresses a part of a message. EMSGSIZE as soon as the result exceeds `room` bytes; EILSEQ for data that is not
   * deflate or ends within a block, and then for every call until `reset()`.
   */
  inflate(bytes: Uint8Array, isLast: boolean, room: number): Buffer
  reset(): void
  close(): void
}

export interface Zlib {
  /** `windowBits` 9 to 15, `level` 1 to 9, zlib's memLevel 1 to 9. */
  newDeflater(windowBits: number, level: number, memoryLevel: number): Deflater
  /** `windowBits` 8 to 15. */
  newInflater(windowBits: number): Inflater
}

export interface Addon {
  /** Null without the addon. */
  readonly sys: Sys | null
  /** Null without the addon, and when Node does not export its zlib. */
  readonly zlib: Zlib | null
  /** Makes an engine. Null without the addon, and where there is no epoll. */
  readonly newEngine: ((onBatch: () => void, resource: object) => NativeEngine) | null
  readonly source: 'given' | 'prebuilt' | 'built' | 'none'
  /** For people: why this binary is used, or why none. */
  readonly why: string
}
