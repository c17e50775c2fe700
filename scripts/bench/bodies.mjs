// The bench `bodies`: server CPU for bodies of 64 B to 1 MiB, up (the server receives it whole) and down, over frames
// and over HTTP: millrace beside hand-written node:net and node:http servers and Bun. Flags and output:
// lib/echo-bench.mjs; `8x1up64k` is a case. Every byte of a body sent down is compared; for one sent up the server
// returns its length and samples.
import { bodyOf, receiptOf } from './lib/bodies.mjs'
import { runEchoBench } from './lib/echo-bench.mjs'
import { answerOf, okFlags, scratch } from './lib/probes.mjs'
import { bunServer, nodeServer } from './lib/servers.mjs'

const sizes = { 64: 64, '1k': 1024, '64k': 64 * 1024, '1m': 1024 * 1024 }
const directions = ['up', 'down']
const keep = scratch('bodies')

/** By variant: { direction, size }. */
const bodies = Object.fromEntries(
  directions.flatMap((direction) =>
    Object.entries(sizes).map(([name, size]) => [`${direction}${name}`, { direction, size }]),
  ),
)
const variants = Object.fromEntries(Object.keys(bodies).map((name) => [name, name.replace(/\d/, ' $&')]))

function framed(payload) {
  const bytes = Buffer.from(payload)
  const head = Buffer.alloc(4)
  head.writeUInt32BE(4 + bytes.length)
  return Buffer.concat([head, bytes])
}

function frameRequest({ direction, size }) {
  if (direction === 'up') return framed(bodyOf(size))
  const wanted = Buffer.alloc(4)
  wanted.writeUInt32BE(size)
  return framed(wanted)
}

function httpRequest({ direction, size }) {
  if (direction === 'down') return Buffer.from(`GET /${size} HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  const type = 'Content-Type: application/octet-stream'
  const head = `POST / HTTP/1.1\r\nHost: localhost\r\n${type}\r\nContent-Length: ${size}\r\n\r\n`
  return Buffer.concat([Buffer.from(head), bodyOf(size)])
}

const replyOf = ({ direction, size }) => (direction === 'up' ? Buffer.from(receiptOf(bodyOf(size))) : bodyOf(size))

/** How a body is transferred: the request for it, and the end of the reply, which for a frame is the whole reply. */
const wires = {
  frame: { request: frameRequest, tail: (body) => framed(replyOf(body)), begins: [] },
  http: { request: httpRequest, tail: replyOf, begins: okFlags },
}

function work(name, peers) {
  const { request, tail, begins } = wires[name]
  const files = Object.entries(bodies).map(([variant, body]) => [
    variant,
    { request: keep(`${name}-${variant}`, request(body)), tail: keep(`${name}-${variant}-tail`, tail(body)) },
  ])
  const fileOf = Object.fromEntries(files)
  const probe = (port, variant) => answerOf(port, request(bodies[variant]), tail(bodies[variant]))
  return {
    name,
    module: `bodies-${name}.mjs`,
    load: 'load',
    peers,
    cases: '8x1up64k,8x1down64k,8x1up1m,8x1down1m',
    allCases: Object.keys(bodies)
      .map((variant) => `8x1${variant}`)
      .join(),
    compared: ['millrace', 'millrace-node', ...Object.keys(peers)].join(),
    variants,
    bodyBytes: ({ variant }) => bodies[variant]?.size,
    answers: async (port) => (await probe(port, 'down64')).length > 0,
    async loadFlags(port, { variant }) {
      const { length } = await probe(port, variant)
      return ['-q', fileOf[variant].request, '-r', String(length), ...begins, '-z', fileOf[variant].tail]
    },
  }
}

await runEchoBench(
  'bodies',
  work('frame', { net: nodeServer('bodies-peers.mjs', ['net']) }),
  work('http', { node: nodeServer('bodies-peers.mjs', ['node']), bun: bunServer('bun-bodies.mjs') }),
)
