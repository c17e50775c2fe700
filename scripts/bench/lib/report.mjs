// From results to the README's tables: which rows matter, and how a figure is written. Pure functions; table.mjs reads
// and writes the files.

/** A server's name in results, and its name for readers. */
const names = {
  net: 'node:net',
  'net-corked': 'node:net with cork()',
  node: 'node:http',
  dgram: 'node:dgram',
  fastify: 'Fastify',
  bun: 'Bun',
}
const own = ['floor', 'millrace', 'millrace-node']

/** A line of a table is a row of a result: its bench, the work if the bench has several, and the case. */
const line = (says, bench, at, more = {}) => ({ says, bench, at, ...more })

/** The cases of an echo bench, as `64x16b`; `extra` describes more of their letters. */
const linesOf = (says, bench, cases, extra = {}) =>
  cases.map((at) => {
    const [, connections, inFlight, variant] = /^(\d+)x(\d+)(.*)$/.exec(at)
    return line(`${says}${extra[variant] ?? ''}, ${figure(Number(connections), 0)} x ${inFlight}`, bench, at)
  })

const heads = { '': ', head of 40 B', b: ', head of 600 B' }
const echoes = [
  ...linesOf('text, 32 B', 'text', ['64x16', '64x1', '512x1', '5000x1', '1x1']),
  ...linesOf('HTTP hello', 'http', ['64x16', '64x16b', '64x1', '512x1', '5000x1', '1x1'], heads),
  ...linesOf('WebSocket, 32 B', 'websocket', ['64x16', '64x1', '512x1', '5000x1', '1x1']),
  ...linesOf('UDP, 32 B', 'udp', ['64x1', '8x16', '1x1']),
  line('connect, a line, close; 64 at a time', 'connections', '64x1', { work: 'text' }),
  line('connect, a request, close; 64 at a time', 'connections', '64x1', { work: 'http' }),
  line('text broadcast to 10,000, each', 'broadcast', '10000x1', { work: 'text' }),
  line('WebSocket broadcast to 10,000, each', 'broadcast', '10000x1', { work: 'websocket' }),
]

const bodies = ['frame', 'http'].flatMap((work) =>
  ['64', '1k', '64k', '1m'].flatMap((size) =>
    ['up', 'down'].map((direction) => {
      const bytes = size.replace(/k$/, ' KiB').replace(/m$/, ' MiB').replace(/\d$/, '$& B')
      const wire = work === 'http' ? 'HTTP' : 'frame'
      return line(`${wire}, ${bytes} ${direction}, 8 x 1`, 'bodies', `8x1${direction}${size}`, { work })
    }),
  ),
)

const rates = [
  line('text', 'connections', '64x1', { work: 'text' }),
  line('HTTP', 'connections', '64x1', { work: 'http' }),
]

const idles = [
  line('idle TCP connection', 'idle', '10000', { work: 'tcp' }),
  line('idle WebSocket connection', 'idle', '10000', { work: 'websocket' }),
]

const keyOf = ({ connections, inFlight, variant = '' }) =>
  inFlight === undefined ? `${connections}` : `${connections}x${inFlight}${variant}`

/**
 * The newest row of a line, with the date of its result; undefined if no result has it. `results` are files of
 * results/.
 */
export function newest(results, { bench, work, at }) {
  const found = results
    .filter((result) => result.bench === bench && !result.plan?.quick)
    .sort((a, b) => (a.date < b.date ? 1 : -1))
    .flatMap(({ date, rows }) => rows.map((row) => ({ date, ...row })))
  return found.find((row) => row.work === work && keyOf(row.case) === at)
}

/** Three digits: more would be noise. */
export function figure(value, decimals) {
  if (value >= 100 || decimals === 0) return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ',')
  return value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

/** Makes the cells of a row: a text by server name, '-' for one that was absent, 'void' for a void one. */
const cellOf = (row, values, write) => (name) => {
  if (row.voidPeers?.includes(name)) return 'void'
  return values[name] === undefined ? '-' : write(values[name])
}

/** 2.5 means that the peer needs 2.5 times what millrace needs; empty if either is void or millrace was absent. */
function ratioOf(row, name) {
  const isVoid = row.voidPeers?.some((one) => one === name || one === 'millrace')
  return isVoid ? undefined : row.ratio?.[name]
}

function peersCell(row, values, write) {
  const cell = cellOf(row, values, write)
  return Object.keys(values)
    .filter((name) => !own.includes(name))
    .map((name) => {
      const ratio = ratioOf(row, name)
      return `${names[name] ?? name} ${cell(name)}${ratio === undefined ? '' : ` (${figure(ratio)} x)`}`
    })
    .join(', ')
}

const mark = (row) => (row.contended ? ' \\*' : '')

function cpuCells({ says }, row) {
  const cell = cellOf(row, row.perMessageUs, ({ total }) => figure(total))
  const withUser = cellOf(row, row.perMessageUs, ({ user, total }) => `${figure(total)} (${figure(user)})`)
  const floor = ratioOf(row, 'floor')
  return [
    says + mark(row),
    cell('floor'),
    withUser('millrace'),
    cellOf(row, row.spread, (part) => `${Math.round(part * 100)} %`)('millrace'),
    floor === undefined ? '-' : `${(1 / floor).toFixed(2)}`,
    cell('millrace-node'),
    peersCell(row, row.perMessageUs, ({ total }) => figure(total)),
  ]
}

function rateCells({ says }, row) {
  const cell = cellOf(row, row.rate, figure)
  const bare = { ...row, ratio: undefined } // the ratio is about CPU
  return [says + mark(row), ...own.map(cell), peersCell(bare, row.rate, figure)]
}

function idleCells({ says }, row) {
  const write = ({ counted, rss }) => `${figure(counted)} (${figure(rss)})`
  const cell = cellOf(row, row.perConnectionBytes, write)
  const bare = { ...row, ratio: undefined } // servers do not all count the same things
  return [says, cell('millrace'), cell('millrace-node'), peersCell(bare, row.perConnectionBytes, write)]
}

const tables = [
  {
    head: ['server CPU in us', 'floor', 'millrace (user)', 'spread', '/ floor', 'millrace, node engine', 'peers'],
    lines: [...echoes, ...bodies],
    cells: cpuCells,
  },
  {
    head: ['connections a second', 'floor', 'millrace', 'millrace, node engine', 'peers'],
    lines: rates,
    cells: rateCells,
  },
  {
    head: ['bytes, counted (RSS)', 'millrace', 'millrace, node engine', 'peers'],
    lines: idles,
    cells: idleCells,
  },
]

const markdownRow = (cells) => `| ${cells.join(' | ')} |`

const markdown = ([head, ...body]) =>
  [markdownRow(head), `|${'---|'.repeat(head.length)}`, ...body.map(markdownRow)].join('\n')

const distinct = (values) => [...new Set(values)]

function originOf(rows) {
  const machines = rows.map(({ machine: { cpu, cores, kernel } }) => `${cpu}, ${cores} cores, Linux ${kernel}`)
  const versions = rows.flatMap(({ servers }) =>
    Object.entries(servers ?? {}).flatMap(([name, { version }]) =>
      version ? [`${names[name] ?? name} ${version}`] : [],
    ),
  )
  const parts = [
    ...distinct(machines),
    ...distinct(rows.map(({ node }) => `Node ${node.replace(/^v/, '')}`)),
    ...distinct(versions),
    `commit ${distinct(rows.map(({ commit }) => commit)).join(', ')}`,
    distinct(rows.map(({ date }) => date.slice(0, 10))).join(', '),
  ]
  return parts.join('; ')
}

/** The Markdown of all tables that these results provide; undefined if there are none. */
export function tablesOf(results) {
  const used = []
  const made = tables.flatMap(({ head, lines, cells }) => {
    const found = lines.map((one) => [one, newest(results, one)]).filter(([, row]) => row !== undefined)
    used.push(...found.map(([, row]) => row))
    return found.length === 0 ? [] : [markdown([head, ...found.map(([one, row]) => cells(one, row))])]
  })
  if (used.length === 0) return undefined
  const contended = used.some((row) => row.contended) ? " \\* another program was on the server's core." : ''
  const rounds = distinct(used.map(({ runs }) => runs)).join(' or ')
  return [
    `Measured on ${originOf(used)}. Medians of ${rounds} interleaved rounds, connections x messages in flight on each;`,
    `spread is (highest - lowest) / median of the rounds. (n x) is how many times millrace's CPU a peer takes: the median`,
    `of the rounds' ratios.${contended}`,
    '',
    made.join('\n\n'),
  ].join('\n')
}

export const begin = '<!-- bench: made by `npm run bench -- table` -->'
export const end = '<!-- /bench -->'

/** `text` with `content` between the marks; undefined if a mark is missing. */
export function replaceBetween(text, content) {
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) return undefined
  return `${text.slice(0, from + begin.length)}\n${content}\n${text.slice(to)}`
}
