// The minimum that a line costs a server whose handlers take and return strings: a read becomes strings, the strings
// become bytes to send, and nothing else happens. No socket, no connection, no handler. Several ways, of which the
// fastest counts. It shows how much room for everything else is left by a target set relative to the C floor, which
// only copies bytes. CPU time per line; medians of interleaved runs.
//
//   npm run bench -- strings [--runs 9] [--bytes 32]

import { parseArgs } from 'node:util'
import { CannotRun, environment, median, round, runBench, spread } from './lib/bench.mjs'

/** Lines per read: as many as are in flight on a connection. */
const LINES = [1, 16]
const LINES_A_RUN = 1_000_000

const out = Buffer.alloc(65_536)

/** Splits the bytes of a read into lines without their terminators. */
const readers = {
  /** Each separately. */
  each(bytes, count, take) {
    let start = 0
    for (let n = 0; n < count; n++) {
      const end = bytes.indexOf(10, start)
      take(bytes.utf8Slice(start, end))
      start = end + 1
    }
  },
  /** One string, sliced into lines. */
  slices(bytes, count, take) {
    const text = bytes.utf8Slice(0, bytes.length)
    let start = 0
    for (let n = 0; n < count; n++) {
      const end = text.indexOf('\n', start)
      take(text.slice(start, end))
      start = end + 1
    }
  },
}

/** Lines to bytes: `add` for each, then `end`. */
const writers = {
  /** Each separately. */
  each() {
    let at = 0
    return {
      add(line) {
        at += out.utf8Write(line, at)
        out[at++] = 10
      },
      end() {
        at = 0
      },
    }
  },
  /** Joined, and encoded at once. */
  joined() {
    let all = ''
    return {
      add(line) {
        all += line
        all += '\n'
      },
      end() {
        out.utf8Write(all, 0)
        all = ''
      },
    }
  },
}

await runBench('strings', () => {
  const { values: options } = parseArgs({
    options: { runs: { type: 'string', default: '9' }, bytes: { type: 'string', default: '32' } },
  })
  const [runs, size] = [Number(options.runs), Number(options.bytes)]
  if (!(runs >= 1)) throw new CannotRun('--runs takes how often each way is measured')
  if (!(size >= 1 && size <= 1024)) throw new CannotRun('--bytes takes the length of a line, 1 to 1024')
  for (const count of LINES) console.log(JSON.stringify(lineOf(count, size, runs)))
})

function lineOf(count, size, runs) {
  const ways = Object.keys(readers).flatMap((read) => Object.keys(writers).map((write) => ({ read, write, ns: [] })))
  const bytes = Buffer.from(Array.from({ length: count }, (_, n) => `${String(n).padStart(size, 'x')}\n`).join(''))
  for (let n = 0; n <= runs; n++)
    for (const { read, write, ns } of ways) {
      const took = measure(readers[read], writers[write](), bytes, count)
      if (n > 0) ns.push(took) // the first one is a warm-up
    }
  const least = ways.toSorted((a, b) => median(a.ns) - median(b.ns))[0]
  return {
    bench: 'strings',
    case: `${count} x ${size} B`,
    leastNs: round(median(least.ns)),
    spread: round(spread(least.ns), 2),
    read: least.read,
    write: least.write,
    ...environment(),
  }
}

function measure(read, { add, end }, bytes, count) {
  const turns = LINES_A_RUN / count
  const before = process.cpuUsage()
  for (let n = 0; n < turns; n++) {
    read(bytes, count, add)
    end()
  }
  const { user, system } = process.cpuUsage(before)
  return ((user + system) * 1000) / LINES_A_RUN
}
