// The bodies of the bench `bodies`: bytes that do not repeat soon, and what a server says about those that it has received.

const largest = Buffer.alloc(1 << 20)
for (let i = 0; i < largest.length; i++) largest[i] = (i * 31 + (i >> 8) * 7 + (i >> 16)) & 0xff

/** The first `size` of them; kept, as a server keeps a file that it serves. */
export const bodyOf = (size) => bodies.get(size) ?? keep(size)

const bodies = new Map()

function keep(size) {
  const body = largest.subarray(0, size)
  bodies.set(size, body)
  return body
}

/** Of fixed length: how many bytes there were, and four of them. The whole body has to be in one piece for it. */
export function receiptOf(body) {
  const samples = [0, 0.33, 0.66, 1].map((part) => body[Math.floor((body.length - 1) * part)])
  return `${String(body.length).padStart(8, '0')} ${Buffer.from(samples).toString('hex')}`
}
