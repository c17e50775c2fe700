// Reads values in v8's format so that they share memory with nothing. Node's own reader makes typed arrays that are
// views of its input or, where that is not aligned, of the pool that all small Buffers are cut from: whoever takes
// their `.buffer` then has bytes that are none of theirs, and overwrites them.

import { v8 } from './builtins.ts'

type Reader = InstanceType<typeof import('node:v8').DefaultDeserializer>
type ReaderClass = new (bytes: Uint8Array) => Reader
/** Node documents the method for subclasses, but its types lack it. */
type HostReaderClass = new (bytes: Uint8Array) => Reader & { _readHostObject(): NodeJS.ArrayBufferView<ArrayBuffer> }

/** Copies any typed array, keeping its type; a Buffer's own `slice` does not copy. */
const copy: (this: ArrayBufferView) => ArrayBufferView = Uint8Array.prototype.slice

let ownReader: ReaderClass | null = null

/**
 * As `v8.deserialize`, but each typed array of the result, each Buffer and each DataView, has an ArrayBuffer of exactly
 * its own bytes: also two that were views of one buffer. `bytes` may change afterwards. Throws what v8 throws.
 */
export function deserialize(bytes: Uint8Array): unknown {
  ownReader ??= makeReader()
  const reader = new ownReader(bytes)
  reader.readHeader()
  return reader.readValue()
}

/** Made on first use, as it needs v8. */
function makeReader(): ReaderClass {
  return class extends (v8().DefaultDeserializer as unknown as HostReaderClass) {
    /** Reads what v8 leaves to Node: views of an ArrayBuffer, without that. */
    override _readHostObject(): NodeJS.ArrayBufferView<ArrayBuffer> {
      const view = super._readHostObject()
      const { buffer, byteOffset, byteLength } = view
      if (view instanceof DataView) return new DataView(buffer.slice(byteOffset, byteOffset + byteLength))
      return copy.call(view) as typeof view
    }
  }
}
