// The bench `tls`: server CPU per TLS connection (full handshake, resumed) and per echoed line, millrace beside
// node:tls. openssl's s_time makes the connections; a Node client sends the lines, 16 in flight on each of 16
// connections. Method: README.md.
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { parseArgs } from 'node:util'
import {
  cpuBetween,
  cpuOf,
  environment,
  median,
  pickCores,
  round,
  runBench,
  table,
  writeResults,
} from './lib/bench.mjs'
import { millraceServer, nodeServer } from './lib/servers.mjs'

const LINE = `${'x'.repeat(31)}\n`
const CONNECTIONS = 16
const IN_FLIGHT = 16

await runBench('tls', main)

async function main() {
  const { values } = parseArgs({
    allowPositionals: true,
    options: { rounds: { type: 'string' }, quick: { type: 'boolean' } },
  })
  const rounds = Number(values.rounds ?? (values.quick ? 1 : 5))
  const seconds = values.quick ? 1 : 3
  const cores = pickCores()
  makeCertificate()
  const starters = {
    millrace: millraceServer('tls', 'tls-echo.mjs', answers, 'node'),
    node: nodeServer('tls-peer.mjs'),
  }
  const servers = {}
  try {
    for (const [name, start] of Object.entries(starters)) servers[name] = await start(cores?.server)
    const works = {
      full: (port) => handshakes(port, '-new', seconds, cores),
      resumed: (port) => handshakes(port, '-reuse', seconds, cores),
      line: (port) => lines(port, seconds),
    }
    const rows = []
    for (const [work, run] of Object.entries(works)) {
      const totals = { millrace: [], node: [] }
      for (let n = 0; n < rounds; n++)
        for (const [name, server] of Object.entries(servers)) {
          const before = cpuOf(server.pid)
          const count = await run(server.port)
          totals[name].push((cpuBetween(before, cpuOf(server.pid)).total / count) * 1e6)
        }
      const ratio = round(median(totals.node.map((total, n) => total / totals.millrace[n])))
      rows.push({
        bench: 'tls',
        work,
        perUnitUs: { millrace: round(median(totals.millrace)), node: round(median(totals.node)) },
        ratio,
        totals,
      })
      console.log(JSON.stringify({ ...rows.at(-1), ...environment() }))
    }
    const body = rows.map(({ work, perUnitUs, ratio }) => [
      work,
      perUnitUs.millrace.toFixed(1),
      perUnitUs.node.toFixed(1),
      ratio.toFixed(2),
    ])
    process.stderr.write(
      `server CPU in us: a full handshake, a resumed one, an echoed line\n${table([['', 'millrace', 'node', 'node/millrace'], ...body])}\n`,
    )
    writeResults('tls', { rounds, rows })
  } finally {
    for (const server of Object.values(servers)) await server.stop()
  }
}

function makeCertificate() {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-bench-tls-'))
  const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
  const kind = [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-nodes',
    '-subj',
    '/CN=localhost',
    '-days',
    '2',
  ]
  execFileSync('openssl', ['req', '-x509', ...kind, '-keyout', key, '-out', cert], { stdio: 'ignore' })
  Object.assign(process.env, { CERT_FILE: cert, KEY_FILE: key })
}

/** Returns how many connections were made. */
function handshakes(port, kind, seconds, cores) {
  const command = ['openssl', 's_time', '-connect', `127.0.0.1:${port}`, kind, '-time', String(seconds)]
  const [program, ...args] = cores ? ['taskset', '-c', String(cores.load), ...command] : command
  const { stdout } = spawnSync(program, args, { encoding: 'utf8' })
  const counts = [...stdout.matchAll(/^(\d+) connections in \d+ real seconds/gm)]
  if (counts.length === 0) throw new Error(`openssl s_time made no connection: ${stdout}`)
  return Number(counts.at(-1)[1])
}

/** Returns how many lines were answered. */
async function lines(port, seconds) {
  let answered = 0
  let isOver = false
  const one = () =>
    new Promise((resolve, reject) => {
      const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () =>
        socket.write(LINE.repeat(IN_FLIGHT)),
      )
      let pending = 0
      socket.setNoDelay(true)
      socket.on('error', reject)
      socket.on('close', resolve)
      socket.on('data', ({ length }) => {
        pending += length
        const count = Math.floor(pending / LINE.length)
        pending -= count * LINE.length
        answered += count
        if (isOver) socket.destroy()
        else if (count > 0) socket.write(LINE.repeat(count))
      })
    })
  const all = Array.from({ length: CONNECTIONS }, one)
  setTimeout(() => {
    isOver = true
  }, seconds * 1000)
  await Promise.all(all)
  return answered
}

function answers(port) {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false }, () => socket.write(LINE))
    const settle = (value) => {
      socket.destroy()
      resolve(value)
    }
    socket.setTimeout(1000, () => settle(false))
    socket.on('error', () => settle(false))
    socket.on('data', () => settle(true))
  })
}
