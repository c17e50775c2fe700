// The frame of a Publish, made once for all links that it goes over.

import type { QuickBuffer } from '../builtins.ts'
import type { Audience } from './subscriptions.ts'
import { Flag, HEAD_BYTES, Kind, type Packed, putUint32, TIME_BYTES, unexpected } from './wire.ts'

/** A Publish up to its value, for a sender that wants no answer. */
export function publishHead({ subject, isForAll, queues }: Audience): Buffer {
  const labels = [...queues, subject].map((label) => Buffer.from(label))
  const sizes = labels.map((label) => Buffer.of(label.length & 0xff, label.length >>> 8))
  const head = Buffer.alloc(HEAD_BYTES + TIME_BYTES) // it never expires
  head[4] = Kind.Publish
  const whom = Buffer.of(isForAll ? Flag.ForAll : 0, queues.length)
  return Buffer.concat([head, whom, ...labels.flatMap((label, at) => [sizes[at] as Buffer, label])])
}

/** The complete frame of a message that goes to many. */
export function publishFrame(head: Buffer, { form, bytes }: Packed): Buffer {
  const frame = Buffer.allocUnsafe(head.length + bytes.length)
  frame.set(head)
  frame.set(bytes, head.length)
  putUint32(frame, 0, frame.length - 4)
  frame[5] = form
  return frame
}

/** Reads the head of a Publish; the value begins at `at`. Throws ProtocolError. */
export function readPublish(
  bytes: Buffer,
  start: number,
  end: number,
): { audience: Audience; expiresAt: number; asks: boolean; at: number } {
  if (end - start < TIME_BYTES + 4) throw unexpected(Kind.Publish)
  const flags = bytes[start + TIME_BYTES] as number
  const labels: string[] = []
  let at = start + TIME_BYTES + 2
  for (let left = bytes[start + TIME_BYTES + 1] as number; left >= 0; left--) {
    const size = at + 2 <= end ? bytes.readUInt16LE(at) : end
    if (at + 2 + size > end) throw unexpected(Kind.Publish)
    labels.push((bytes as QuickBuffer).utf8Slice(at + 2, at + 2 + size))
    at += 2 + size
  }
  const subject = labels.pop() ?? ''
  const audience = { subject, isForAll: (flags & Flag.ForAll) !== 0, queues: labels }
  return { audience, expiresAt: bytes.readDoubleLE(start), asks: (flags & Flag.Asks) !== 0, at }
}
