// The bodies of the bench `bodies`: bytes that do not repeat soon, and the receipt a server returns for a received
// body.

const largest = Buffer.alloc(1 << 20)
for (let i = 0; i < largest.length; i++) largest[i] = (i * 31 + (i >> 8) * 7 + (i >> 16)) & 0xff

/** The first `size` bytes; cached, as a server keeps a file it serves. */
export const bodyOf = (size) => bodies.get(size) ?? keep(size)

const bodies = new Map()

function keep(size) {
  const body = largest.subarray(0, size)
  bodies.set(size, body)
  return body
}

/** A receipt of fixed length: the number of bytes and four of them. It needs the whole body in one piece. */
export function receiptOf(body) {
  const samples = [0, 0.33, 0.66, 1].map((part) => body[Math.floor((body.length - 1) * part)])
  return `${String(body.length).padStart(8, '0')} ${Buffer.from(samples).toString('hex')}`
}
