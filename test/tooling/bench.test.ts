// The pure part of the benchmarks: from runs to rows, and from results to the README's tables. That a bench measures is seen
// with `npm run bench -- <name> --quick`, which takes too long for here.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { inProject, node, root, script } from './support.ts'

interface Run {
  totalUs: number
  cpuSeconds: { user: number; system: number }
  utilisation: { server: number; waited: number; load: number }
  rate: number
  latencyUs: { p50: number; p99: number }
}
interface Row {
  perMessageUs: Record<string, { user: number; total: number }>
  ratio: Record<string, number>
  ratioRange: Record<string, [number, number]>
  spread: Record<string, number>
  saturated: boolean
  contended?: boolean
  void?: boolean
  voidPeers?: string[]
  runs: number
}
type Samples = Record<'empty' | 'open' | 'idle', { heapUsed: number; external: number; rss: number }>

const { caseOf, idleRow, perMiB, rowOf } = (await script('bench/lib/rows.mjs')) as {
  caseOf(text: string, bytes: number, variants?: Record<string, string>): object | undefined
  idleRow(
    runs: Record<string, ({ about: { engine?: string } } & Samples)[]>,
    plan: { connections: number },
  ): { perConnectionBytes: Record<string, Record<string, number>>; ratio: Record<string, number> }
  perMiB(row: Pick<Row, 'perMessageUs'>, bytes: number | undefined): object
  rowOf(runs: Record<string, Run[]>): Row
}
const { begin, end, figure, newest, replaceBetween, tablesOf } = (await script('bench/lib/report.mjs')) as {
  begin: string
  end: string
  figure(value: number): string
  newest(results: object[], line: { bench: string; work?: string; at: string }): { n: number } | undefined
  replaceBetween(text: string, content: string): string | undefined
  tablesOf(results: object[]): string | undefined
}
const { textFrame } = (await script('bench/lib/probes.mjs')) as { textFrame(text: string, mask?: number[]): Buffer }
const { bodyOf, receiptOf } = (await script('bench/lib/bodies.mjs')) as {
  bodyOf(size: number): Buffer
  receiptOf(body: Uint8Array): string
}

function run(totalUs: number, { server = 0.95, waited = 0, load = 0.5 } = {}): Run {
  const utilisation = { server, waited, load }
  return { totalUs, cpuSeconds: { user: 1, system: 3 }, utilisation, rate: 1000, latencyUs: { p50: 1, p99: 2 } }
}

test('a row has medians, and ratios taken within a round', () => {
  const row = rowOf({
    floor: [run(1), run(2), run(1)],
    millrace: [run(2), run(8), run(2)],
    net: [run(10), run(20), run(30)],
  })
  assert.equal(row.perMessageUs.millrace, { user: 0.5, total: 2 })
  assert.equal(row.ratio, { floor: 0.5, net: 5 }) // the ratio of the medians would be 10
  assert.equal(row.ratioRange.net, [2.5, 15])
  assert.is(row.spread.net, 1)
  assert.is(row.runs, 3)
  assert.ok(row.saturated)
  assert.is(row.void, undefined)
})

test('without millrace there is nothing to compare with', () => {
  assert.equal(rowOf({ floor: [run(1)], net: [run(2)] }).ratio, {})
})

test('a row is void for those servers that the generator could not saturate', () => {
  const row = rowOf({ floor: [run(1, { server: 0.6, load: 0.99 })], millrace: [run(2)], net: [run(3, { load: 0.99 })] })
  assert.is(row.void, true)
  assert.equal(row.voidPeers, ['floor'])
  assert.not.ok(row.saturated)
})

test('a server that waits for its core is contended', () => {
  assert.is(rowOf({ millrace: [run(1, { waited: 0.06 })] }).contended, true)
  assert.is(rowOf({ millrace: [run(1, { waited: 0.04 })] }).contended, undefined)
})

test('a case is connections, messages in flight, and a known variant', () => {
  assert.equal(caseOf('64x16', 32), { connections: 64, inFlight: 16, bytes: 32 })
  assert.equal(caseOf('8x1up64k', 32, { up64k: 'up' }), { connections: 8, inFlight: 1, bytes: 32, variant: 'up64k' })
  for (const wrong of ['64', '0x1', '1x0', '1x1z', '1x1toString', 'x', '-1x1', '1x1,2x2', '']) {
    assert.is(caseOf(wrong, 32, { b: 'browser' }), undefined, wrong)
  }
})

test('bodies have a price per MiB, other messages none', () => {
  const row = { perMessageUs: { net: { user: 1, total: 10 } } }
  assert.equal(perMiB(row, 64 * 1024), { perMiBUs: { net: 160 } })
  assert.equal(perMiB(row, undefined), {})
})

test('idle memory is what each connection added, with what the engine keeps', () => {
  const samples = (heapUsed: number, external: number, rss: number): Samples => ({
    empty: { heapUsed: 1000, external: 500, rss: 10_000 },
    open: { heapUsed: 1000, external: 500, rss: 10_000 },
    idle: { heapUsed: 1000 + heapUsed, external: 500 + external, rss: 10_000 + rss },
  })
  const { perConnectionBytes, ratio } = idleRow(
    {
      millrace: [{ about: { engine: 'native' }, ...samples(3600, 0, 9000) }],
      net: [{ about: {}, ...samples(7000, 1000, 40_000) }],
    },
    { connections: 10 },
  )
  const own = { heap: 360, external: 0, engine: 40, counted: 400, rss: 900, silent: 40 }
  assert.equal(perConnectionBytes.millrace, own)
  assert.equal(perConnectionBytes.net, { heap: 700, external: 100, engine: 0, counted: 800, rss: 4000, silent: 0 })
  assert.equal(ratio, { net: 2 })
})

test('frames are those of RFC 6455', () => {
  assert.equal([...textFrame('Hello')], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f])
  const masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
  assert.equal([...textFrame('Hello', [0x37, 0xfa, 0x21, 0x3d])], masked) // section 5.7
})

test('a receipt has one length, and tells bodies apart', () => {
  const sizes = [64, 1024, 64 * 1024, 1024 * 1024]
  const receipts = sizes.map((size) => receiptOf(bodyOf(size)))
  assert.equal(new Set(receipts.map((text) => text.length)).size, 1)
  const broken = Buffer.from(bodyOf(1024))
  broken.writeUInt8(broken.readUInt8(1023) ^ 1, 1023)
  assert.is.not(receiptOf(broken), receipts[1])
})

// Tables

const environment = {
  machine: { cpu: 'Xeon', cores: 2, memoryGiB: 8, kernel: '6.1' },
  node: 'v20.20.2',
  commit: 'abc1234',
  servers: { floor: {}, millrace: { engine: 'native' }, bun: { version: '1.2' } },
}

function resultOf(bench: string, date: string, rows: object[], quick = false): object {
  return { bench, date, plan: { quick }, rows: rows.map((row) => ({ bench, ...environment, runs: 5, ...row })) }
}

const us = (total: number) => ({ user: total / 4, total })
const echo = (connections: number, inFlight: number, more: object = {}) => ({
  case: { connections, inFlight, bytes: 32 },
  perMessageUs: { floor: us(0.4), millrace: us(0.5), 'millrace-node': us(0.9), net: us(6.25) },
  ratio: { floor: 0.8, 'millrace-node': 1.8, net: 12.5 },
  spread: { floor: 0.1, millrace: 0.08, 'millrace-node': 0.1, net: 0.1 },
  rate: { floor: 2_000_000, millrace: 1_500_000, 'millrace-node': 900_000, net: 150_000 },
  ...more,
})

test('a row is taken from the newest result that has it, and never from a quick one', () => {
  const row = (n: number, at = 64) => ({ n, case: { connections: at, inFlight: 16 } })
  const results = [
    resultOf('text', '2026-11-25T10:00:00Z', [row(1), row(2, 512)]),
    resultOf('text', '2026-11-26T10:00:00Z', [row(3)]),
    resultOf('text', '2026-11-27T10:00:00Z', [row(4), row(5, 512)], true),
    resultOf('http', '2026-11-28T10:00:00Z', [row(6)]),
  ]
  assert.is(newest(results, { bench: 'text', at: '64x16' })?.n, 3)
  assert.is(newest(results, { bench: 'text', at: '512x16' })?.n, 2)
  assert.is(newest(results, { bench: 'text', at: '1x1' }), undefined)
  assert.is(newest(results, { bench: 'text', work: 'tcp', at: '64x16' }), undefined)
})

test('figures have three digits', () => {
  assert.equal(
    [0.034, 0.9, 9.994, 12.34, 123.4, 1234.5, 1_234_567].map((value) => figure(value)),
    ['0.03', '0.90', '9.99', '12.3', '123', '1,235', '1,234,567'],
  )
})

test('the table has a line for each case that was measured, and says on what', () => {
  const text = tablesOf([resultOf('text', '2026-11-25T10:00:00Z', [echo(64, 16), echo(3, 7)])]) ?? ''
  const lines = text.split('\n')
  assert.ok(
    lines.includes('| text, 32 B, 64 x 16 | 0.40 | 0.50 (0.13) | 8 % | 1.25 | 0.90 | node:net 6.25 (12.5 x) |'),
    text,
  )
  assert.is(lines.filter((line) => line.startsWith('| text')).length, 1)
  for (const told of ['Xeon, 2 cores, Linux 6.1', 'Node 20.20.2', 'Bun 1.2', 'abc1234', '2026-11-25', 'of 5 inter']) {
    assert.ok(text.includes(told), told)
  }
})

test('a void figure is not shown, and no ratio is made of it', () => {
  const of = (voidPeers: string[]) =>
    tablesOf([resultOf('text', '2026-11-25T10:00:00Z', [echo(64, 16, { void: true, voidPeers })])]) ?? ''
  assert.ok(of(['floor']).includes('| void | 0.50 (0.13) | 8 % | - | 0.90 | node:net 6.25 (12.5 x) |'))
  assert.ok(of(['millrace']).includes('| 0.40 | void | void | - | 0.90 | node:net 6.25 |'))
})

test('a contended row is marked, and the mark explained', () => {
  const text = tablesOf([resultOf('text', '2026-11-25T10:00:00Z', [echo(64, 16, { contended: true })])]) ?? ''
  assert.ok(text.includes('64 x 16 \\* |'))
  assert.ok(text.includes("another program was on the server's core"))
})

test('connections have two lines, memory has its own table', () => {
  const memory = (counted: number, rss: number) => ({ heap: counted, external: 0, engine: 0, counted, rss, silent: 1 })
  const text = tablesOf([
    resultOf('connections', '2026-11-25T10:00:00Z', [{ work: 'text', ...echo(64, 1) }]),
    resultOf('idle', '2026-11-25T10:00:00Z', [
      { work: 'tcp', case: { connections: 10_000 }, perConnectionBytes: { millrace: memory(600, 2000) } },
    ]),
  ])
  assert.ok(text?.includes('| connect, a line, close; 64 at a time | 0.40 | 0.50 (0.13) |'), text)
  assert.ok(text?.includes('| text | 2,000,000 | 1,500,000 | 900,000 | node:net 150,000 |'), text)
  assert.ok(text?.includes('| idle TCP connection | 600 (2,000) | - |'), text)
})

test('nothing measured is no table', () => {
  assert.is(tablesOf([]), undefined)
  assert.is(tablesOf([resultOf('text', '2026-11-25T10:00:00Z', [echo(64, 16)], true)]), undefined)
})

test('only what is between the marks is replaced', () => {
  assert.is(replaceBetween(`a\n${begin}\nold\n${end}\nz\n`, 'new'), `a\n${begin}\nnew\n${end}\nz\n`)
  assert.is(replaceBetween('a', 'new'), undefined)
  assert.is(replaceBetween(`${end} ${begin}`, 'new'), undefined)
})

test('README.md has the marks', () => {
  assert.ok(replaceBetween(readFileSync(join(root, 'README.md'), 'utf8'), '') !== undefined)
})

test('the script writes the tables where it is told, and says what is missing', async () => {
  const files = { 'README.md': `a\n${begin}\n${end}\nz\n`, 'bare.md': 'a\n', 'results/other.json': '{}' }
  await inProject(files, async (directory) => {
    const table = (readme: string) => {
      const at = ['--results', join(directory, 'results'), '--readme', join(directory, readme)]
      return node([join(root, 'scripts/bench/table.mjs'), ...at], directory)
    }
    const nothing = await table('README.md')
    assert.is(nothing.code, 2)
    assert.match(nothing.stderr, /no result/)
    const result = resultOf('text', '2026-11-25T10:00:00Z', [echo(64, 16)])
    writeFileSync(join(directory, 'results', 'text.json'), JSON.stringify(result))
    assert.is((await table('README.md')).code, 0)
    assert.match(readFileSync(join(directory, 'README.md'), 'utf8'), /\| text, 32 B, 64 x 16 \|[\s\S]*\nz\n$/)
    assert.match((await table('bare.md')).stderr, /lacks/)
  })
})

test.run()
