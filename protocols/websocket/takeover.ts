// permessage-deflate with context takeover, on a zlib that keeps its windows (the addon's). Windows take memory, so a
// connection has none before it needs one, and the number of windows is limited. A window we compress with may be
// dropped at any time: a message that refers to no earlier one is just as valid. Whether the peer compresses with a
// window is settled in the handshake. Messages that stand alone share one stream.

import { bytesOf } from '../../src/encoded.ts'
import { codeOf } from '../../src/errors.ts'
import {
  type Agreement,
  type CompressionChoice,
  type DeflateContext,
  type DeflateEngine,
  inflatesTooMuch,
  isNoDeflate,
  type Terms,
} from './deflate.ts'

interface Deflater {
  compress(bytes: Uint8Array): Buffer
  reset(): void
  close(): void
}

interface Inflater {
  inflate(bytes: Uint8Array, isLast: boolean, room: number): Buffer
  reset(): void
  close(): void
}

/** The part of src/addon.ts used here. */
interface Zlib {
  newDeflater(windowBits: number, level: number, memoryLevel: number): Deflater
  newInflater(windowBits: number): Inflater
}

/** zlib's raw streams have at least 9 bits; a 9-bit window refers back at most 250 bytes, which fits into 8. */
const LEAST_BITS = 9

export class TakeoverEngine implements DeflateEngine {
  readonly #zlib: Zlib
  readonly #settings: CompressionChoice
  /** Connections with a window to compress with, the longest unused first. */
  readonly #owners = new Set<Context>()
  /** How many connections have peers whose messages may refer to earlier ones. */
  #peers = 0
  /** For messages that stand alone, by window bits. */
  readonly #shared = new Map<number, Deflater>()
  /** Kept for the next message that stands alone. */
  #spare: Inflater | null = null

  constructor(zlib: Zlib, settings: CompressionChoice) {
    this.#zlib = zlib
    this.#settings = settings
  }

  get terms(): Terms {
    const { maxContexts, windowBits } = this.#settings
    return { hasTakeover: maxContexts > 0, peerHasTakeover: this.#peers < maxContexts, peerWindowBits: windowBits }
  }

  open(agreement: Agreement): DeflateContext {
    if (agreement.peerHasTakeover) this.#peers++
    return new Context(this, agreement)
  }

  compressAlone(payload: string | Uint8Array, windowBits: number): Buffer {
    let deflater = this.#shared.get(windowBits)
    if (deflater === undefined) {
      deflater = this.#newDeflater(windowBits)
      this.#shared.set(windowBits, deflater)
    }
    deflater.reset()
    return deflater.compress(bytesOf(payload))
  }

  /** Returns a deflater for the connection that compresses now; `own` is the one it has. */
  deflaterFor(owner: Context, own: Deflater | null): Deflater {
    this.#owners.delete(owner)
    const deflater = own ?? this.#inherited(owner) ?? this.#newDeflater(this.#bitsOf(owner))
    this.#owners.add(owner)
    return deflater
  }

  /** The deflater of the longest unused connection, if no more may be made. */
  #inherited(heir: Context): Deflater | null {
    const [oldest] = this.#owners
    if (oldest === undefined || this.#owners.size < this.#settings.maxContexts) return null
    this.#owners.delete(oldest)
    const deflater = oldest.yield()
    if (this.#bitsOf(oldest) !== this.#bitsOf(heir)) {
      deflater?.close()
      return null
    }
    deflater?.reset()
    return deflater
  }

  #bitsOf({ agreement }: Context): number {
    return Math.min(agreement.windowBits, this.#settings.windowBits)
  }

  /** zlib's other memory grows along with the window: its defaults are 15 and 8. */
  #newDeflater(windowBits: number): Deflater {
    const bits = Math.max(LEAST_BITS, windowBits)
    return this.#zlib.newDeflater(bits, this.#settings.level, bits - 7)
  }

  inflaterFor({ peerHasTakeover, peerWindowBits }: Agreement): Inflater {
    if (peerHasTakeover) return this.#zlib.newInflater(Math.max(LEAST_BITS, peerWindowBits))
    const spare = this.#spare ?? this.#zlib.newInflater(15)
    this.#spare = null
    return spare
  }

  /** From a peer whose messages refer to no earlier ones, at the end of a message. */
  giveBack(inflater: Inflater): void {
    if (this.#spare !== null) return inflater.close()
    inflater.reset()
    this.#spare = inflater
  }

  closed(owner: Context): void {
    this.#owners.delete(owner)
    if (owner.agreement.peerHasTakeover) this.#peers--
  }

  /** That connection has given up its deflater. */
  rested(owner: Context): void {
    this.#owners.delete(owner)
  }
}

class Context implements DeflateContext {
  readonly agreement: Agreement
  readonly #engine: TakeoverEngine
  #deflater: Deflater | null = null
  #inflater: Inflater | null = null
  /** The peer has received a message that the deflater does not know, or may have missed one that it does. */
  #isStale = false
  #isUsed = false

  constructor(engine: TakeoverEngine, agreement: Agreement) {
    this.#engine = engine
    this.agreement = agreement
  }

  compress(payload: string | Uint8Array): Buffer {
    if (!this.agreement.hasTakeover) return this.#engine.compressAlone(payload, this.agreement.windowBits)
    const deflater = this.#engine.deflaterFor(this, this.#deflater)
    if (this.#isStale) deflater.reset()
    this.#deflater = deflater
    this.#isUsed = this.#isStale = true // until it is sent
    return deflater.compress(bytesOf(payload))
  }

  sent(): void {
    this.#isStale = false
  }

  inflate(part: Buffer, isLast: boolean, room: number): Buffer {
    const inflater = this.#inflater ?? this.#engine.inflaterFor(this.agreement)
    this.#inflater = inflater
    const bytes = inflated(inflater, part, isLast, wholeOf(room))
    if (isLast && !this.agreement.peerHasTakeover) {
      this.#inflater = null
      this.#engine.giveBack(inflater)
    }
    return bytes
  }

  forget(): void {
    this.#isStale = true
  }

  rest(): void {
    if (!this.#isUsed && this.#deflater !== null) {
      this.#engine.rested(this)
      this.yield()?.close()
    }
    this.#isUsed = false
  }

  /** Gives its deflater up, for another connection or to be closed. */
  yield(): Deflater | null {
    const deflater = this.#deflater
    this.#deflater = null
    return deflater
  }

  close(): void {
    this.#engine.closed(this)
    this.yield()?.close()
    this.#inflater?.close()
    this.#inflater = null
  }
}

/** A limit may be a fraction or infinite, and if it is lowered in the middle of a message there is less than none. */
function wholeOf(room: number): number {
  return Math.max(0, Math.floor(Math.min(room, Number.MAX_SAFE_INTEGER)))
}

function inflated(inflater: Inflater, part: Buffer, isLast: boolean, room: number): Buffer {
  try {
    return inflater.inflate(part, isLast, room)
  } catch (error) {
    if (codeOf(error) === 'EMSGSIZE') throw inflatesTooMuch()
    if (codeOf(error) === 'EILSEQ') throw isNoDeflate()
    throw error
  }
}
