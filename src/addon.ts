// The only file that loads the addon, which provides what plain Node cannot do (native/README.md). Tried in order: the
// binary made by `npm run build`, which is as new as the sources beside it, then a prebuilt one of this package, then
// none; all code that needs the addon has a fallback or reports that it has none.

import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Addon, Deflater, Descriptor, Inflater, NativeEngine, Sys, Zlib } from './addon-types.ts'
import { formatEndpoint } from './endpoint.ts'
import { codeOf, messageOf, SystemError } from './errors.ts'

/** A path, or `none`. Read now: workers delete our variables before user code runs, which may also go elsewhere. */
const given = placed(process.env.MILLRACE_ADDON)

let loaded: Addon | null = null

/** Returns the addon, loaded at the first call. Never throws. */
export function addon(): Addon {
  loaded ??= load(rootOf(dirname(fileURLToPath(import.meta.url))), platformName(), given)
  return loaded
}

/** Without this Node would look for a path beside this file, and for one without `./` among packages. */
function placed(override = ''): string {
  return override === '' || override === 'none' ? override : resolve(override)
}

/** Returns `linux-x64-glibc`, for example: the folder of a binary below `prebuilds/`. */
export function platformName(): string {
  const name = `${process.platform}-${process.arch}`
  return process.platform === 'linux' ? `${name}-${libc()}` : name
}

/** @internal Tries the candidates in order. `override` is an absolute path, `none` or empty. */
export function load(root: string, platform: string, override = ''): Addon {
  if (override === 'none') return none('switched off by MILLRACE_ADDON=none')
  if (override !== '') return open(override, 'given', 'MILLRACE_ADDON')
  const failures = new Set<string>()
  for (const [source, path, why] of [
    ['built', 'native/build/Release/millrace.node', 'built here'],
    ['prebuilt', `prebuilds/${platform}/millrace.node`, `prebuilt for ${platform}`],
  ] as const) {
    const file = join(root, path)
    if (!existsSync(file)) continue
    const opened = open(file, source, why)
    if (opened.source !== 'none') return opened
    failures.add(opened.why)
  }
  return none([...failures].join('; ') || `there is no binary for ${platform}, and none was built`)
}

function none(why: string): Addon {
  return { sys: null, zlib: null, newEngine: null, source: 'none', why }
}

function open(path: string, source: 'given' | 'prebuilt' | 'built', why: string): Addon {
  try {
    const binding = createRequire(import.meta.url)(path) as Binding
    const { Engine } = binding
    const newEngine = Engine === undefined ? null : (...args: EngineArguments) => new Engine(...args)
    return { sys: wrapped(binding), zlib: zlibOf(binding), newEngine, source, why }
  } catch (error) {
    if (codeOf(error) === 'ERR_DLOPEN_DISABLED') return none('switched off by --no-addons')
    return none(`${path} cannot be loaded: ${messageOf(error).split('\n')[0]}`)
  }
}

/** The package's folder: above `dist/`, or above `build/src/`. */
function rootOf(folder: string): string {
  for (let at = folder, steps = 0; steps < 4; at = dirname(at), steps++)
    if (existsSync(join(at, 'package.json'))) return at
  return folder
}

/**
 * Told from the loader that is mapped (musl's has it in its name). Node's report would tell too, after 10 to 100 ms.
 */
function libc(): 'glibc' | 'musl' {
  try {
    return readFileSync('/proc/self/maps', 'latin1').includes('/ld-musl-') ? 'musl' : 'glibc'
  } catch {
    return 'glibc' // no /proc, or no permission
  }
}

type EngineArguments = [onBatch: () => void, resource: object]

/** Calls that take or give something else than what crosses the boundary: numbers, strings, booleans, typed arrays. */
type Differing = 'bind' | 'takeInherited' | 'chooseAmong' | 'sendDescriptors' | 'reap' | 'execute'

interface Binding extends Omit<Sys, Differing> {
  /** Only with epoll. */
  readonly Engine?: new (
    ...args: EngineArguments
  ) => NativeEngine
  /** Only with zlib: both or neither. */
  readonly Deflater?: new (
    ...args: Parameters<Zlib['newDeflater']>
  ) => Deflater
  readonly Inflater?: new (...args: Parameters<Zlib['newInflater']>) => Inflater
  bind(transport: number, host: string, port: number, path: string, reusePort: boolean, dualStack: boolean): Descriptor
  takeInherited(fd: number): number
  chooseAmong(fd: number, places: Int32Array): void
  sendDescriptors(socket: number, bytes: Uint8Array, fds: Int32Array): number
  reap(known: Int32Array): ReturnType<Sys['reap']>
  execute(path: string, args: string, env: string, keep: Int32Array): never
}

const INHERITED = ['listening', 'datagrams', 'other'] as const
const TRANSPORTS = ['tcp', 'udp', 'unix'] as const

function wrapped(binding: Binding): Sys {
  const at = (fd: number) => `descriptor ${fd}`
  const list = (parts: readonly string[]) => parts.join('\0')
  return {
    bind({ transport, host, port, path, reusePort = false, isDualStack = false }) {
      const where = transport === 'unix' ? path : formatEndpoint(host, port)
      return told(where, () => binding.bind(TRANSPORTS.indexOf(transport), host, port, path, reusePort, isDualStack))
    },
    connectDatagrams: (host, port) => told(formatEndpoint(host, port), () => binding.connectDatagrams(host, port)),
    listen: (fd, backlog) => told(at(fd), () => binding.listen(fd, backlog)),
    socketName: (fd) => told(at(fd), () => binding.socketName(fd)),
    takeInherited: (fd) => told(at(fd), () => INHERITED[binding.takeInherited(fd)] ?? 'other'),
    setKeepAlive: (fd, idleSeconds) => told(at(fd), () => binding.setKeepAlive(fd, idleSeconds)),
    setNoDelay: (fd, isOn) => told(at(fd), () => binding.setNoDelay(fd, isOn)),
    chooseAmong: (fd, places) => told(at(fd), () => binding.chooseAmong(fd, Int32Array.from(places))),
    acceptQueue: (fd) => told(at(fd), () => binding.acceptQueue(fd)),
    unacknowledgedBytes: (fd) => told(at(fd), () => binding.unacknowledgedBytes(fd)),
    sendDescriptors: (socket, bytes, fds) =>
      told(at(socket), () => binding.sendDescriptors(socket, bytes, Int32Array.from(fds))),
    receiveDescriptors: (socket, mostBytes) => told(at(socket), () => binding.receiveDescriptors(socket, mostBytes)),
    peerCredentials: (fd) => told(at(fd), () => binding.peerCredentials(fd)),
    duplicate: (fd) => told(at(fd), () => binding.duplicate(fd)),
    duplicateOnto: (from, to) => told(at(from), () => binding.duplicateOnto(from, to)),
    setParentDeathSignal: (signal, parent) => told('', () => binding.setParentDeathSignal(signal, parent)),
    becomeReaper: () => told('', () => binding.becomeReaper()),
    closeOnExec: () => told('', () => binding.closeOnExec()),
    reap: (known) => told('', () => binding.reap(Int32Array.from(known))),
    execute: (path, args, env, keep) =>
      told(path, () => {
        const pairs = Object.entries(env).map(([name, value]) => `${name}=${value}`)
        return binding.execute(path, list(args), list(pairs), Int32Array.from(keep))
      }),
    notify: (socketPath, text) => told(socketPath, () => binding.notify(socketPath, text)),
    createMemory: (bytes) => told(`${bytes} bytes`, () => binding.createMemory(bytes)),
    mapMemory: (fd, bytes) => told(at(fd), () => binding.mapMemory(fd, bytes)),
  }
}

function zlibOf({ Deflater, Inflater }: Binding): Zlib | null {
  if (Deflater === undefined || Inflater === undefined) return null
  return {
    newDeflater(...args) {
      const stream = told('', () => new Deflater(...args))
      return {
        get memory() {
          return stream.memory
        },
        compress: (bytes) => told('', () => stream.compress(bytes)),
        reset: () => stream.reset(),
        close: () => stream.close(),
      }
    },
    newInflater(...args) {
      const stream = told('', () => new Inflater(...args))
      return {
        get memory() {
          return stream.memory
        },
        inflate: (bytes, isLast, room) => told('', () => stream.inflate(bytes, isLast, room)),
        reset: () => stream.reset(),
        close: () => stream.close(),
      }
    },
  }
}

/** Turns an Error with `errno` and `syscall`, which a failed call throws, into a SystemError. */
function told<T>(address: string, call: () => T): T {
  try {
    return call()
  } catch (error) {
    const { errno, syscall } = error as { errno?: number; syscall?: string }
    if (errno === undefined || syscall === undefined) throw error
    throw SystemError.fromErrno(errno, syscall, address)
  }
}
