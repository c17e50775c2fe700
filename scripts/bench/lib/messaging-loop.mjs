// What the sending end does and measures, whatever carries the messages. A carrier has `request(message)` (resolves
// with the answer), `send(message)` (false: wait for `room()`), `settled()` (everything sent has been handled),
// `publish` like `send`, and `receiverCpu()` in microseconds.

/** A peer's receiver reports its progress after this many messages or bytes. */
const TELL_EVERY = 128
const TELL_BYTES = 4 * 1_048_576
/** Most messages, and bytes, in flight in one direction. */
const MOST = 4096
const MOST_BYTES = 64 * 1_048_576

/** Counts what has arrived; `add` returns true when progress is to be reported. */
export class Tally {
  count = 0
  #bytes = 0

  add(bytes) {
    this.#bytes += bytes
    const isDue = ++this.count % TELL_EVERY === 0 || this.#bytes >= TELL_BYTES
    if (isDue) this.#bytes = 0
    return isDue
  }
}

/** How many messages of this size may be in flight. */
export function mostOf(bytes) {
  return Math.min(MOST, Math.ceil(MOST_BYTES / Math.max(1, bytes)))
}

const BATCH = 256
const LOOK_EVERY = 8
/** Duration of the first run, until V8 has compiled the hot code: before, a round trip costs twice as much. */
const WARM_MS = 1500
const warm = new Set()

/** @returns {{ perSecond: number, senderUs: number, receiverUs: number }} CPU time is per message */
export async function measure(carrier, { kind, bytes, inFlight, seconds }) {
  const message = 'x'.repeat(bytes)
  await run(carrier, { kind, message, inFlight, ms: warm.has(kind) ? seconds * 300 : WARM_MS })
  warm.add(kind)
  const [receiver, sender] = [await carrier.receiverCpu(), process.cpuUsage()]
  const { count, ms } = await run(carrier, { kind, message, inFlight, ms: seconds * 1000 })
  const { user, system } = process.cpuUsage(sender)
  const receiverUs = (await carrier.receiverCpu()) - receiver
  return { perSecond: (count * 1000) / ms, senderUs: (user + system) / count, receiverUs: receiverUs / count }
}

async function run(carrier, { kind, message, inFlight, ms }) {
  const began = performance.now()
  const until = began + ms
  const count =
    kind === 'roundtrip'
      ? await askUntil(carrier, message, inFlight, until)
      : await sendUntil(carrier[kind], carrier, message, until)
  return { count, ms: performance.now() - began }
}

async function askUntil(carrier, message, inFlight, until) {
  let count = 0
  const ask = async () => {
    // Reading the clock for each would add a twentieth to what is measured.
    for (let n = 0; n % LOOK_EVERY > 0 || performance.now() < until; n++) {
      const answer = await carrier.request(message)
      if (answer.length !== message.length) throw new Error('a wrong answer')
      count++
    }
  }
  await Promise.all(Array.from({ length: inFlight }, ask))
  return count
}

async function sendUntil(send, carrier, message, until) {
  let count = 0
  while (performance.now() < until) {
    let mayGoOn = true
    for (let n = 0; n < BATCH && mayGoOn; n++, count++) mayGoOn = send(message)
    await (mayGoOn ? new Promise(setImmediate) : carrier.room())
  }
  await carrier.settled()
  return count
}
