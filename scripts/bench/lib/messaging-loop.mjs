// What is done and measured at the sending end, whatever carries the messages. A carrier has `request(message)` (resolves
// with the answer), `send(message)` (false: wait for `room()`), `settled()` (all that was sent has been handled), `publish`
// as `send`, and `receiverCpu()` in microseconds.

/** The receiver of a peer tells how far it is after so many messages, or bytes. */
const TELL_EVERY = 128
const TELL_BYTES = 4 * 1_048_576
/** So much may be on its way one way. */
const MOST = 4096
const MOST_BYTES = 64 * 1_048_576

/** Counts what has come; `add` is true when that is to be told. */
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

/** How many messages of this size may be on their way. */
export function mostOf(bytes) {
  return Math.min(MOST, Math.ceil(MOST_BYTES / Math.max(1, bytes)))
}

const BATCH = 256
const LOOK_EVERY = 8
/** The first time, until V8 has compiled what is used most: before, a round trip costs twice as much. */
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
    // A look at the clock for each is a twentieth of what is measured.
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
