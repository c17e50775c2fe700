// A statsd sink: programs send counters, gauges and timings as datagrams and never wait; every ten seconds a summary
// goes to the log. `?` is answered with the current values. A datagram is one message of the protocol; a malformed one
// does no harm.
//
//   node dist/start.js start dist/examples/udp.js
//   printf 'logins:1|c\nqueue:17|g\nquery:12.5|ms' | nc -u -w 1 127.0.0.1 8888
//   printf '?' | nc -u -w 1 127.0.0.1 8888

import { type Protocol, ProtocolError, Timer, Worker } from 'millrace'

interface Metric {
  name: string
  value: number
  type: string
}

/** The metrics of one datagram, one per line; an empty list asks for all. */
const statsd: Protocol<Metric[], string> = {
  name: 'statsd',
  lends: true,
  input: (bytes) => bytes.length,
  decode: (datagram) => (datagram.toString().trim() === '?' ? [] : datagram.toString().trim().split('\n').map(parse)),
  encode: (answer) => answer,
}

function parse(line: string): Metric {
  const [, name, value, type] = /^([\w.]+):([-+]?\d+(?:\.\d+)?)\|(c|g|ms)$/.exec(line) ?? []
  if (name === undefined || type === undefined) throw new ProtocolError('ERR_STATSD', `'${line}' is no metric`)
  return { name, value: Number(value), type }
}

const totals = new Map<string, number>()

function count({ name, value, type }: Metric): void {
  if (type === 'g') totals.set(name, value)
  else if (type === 'c') add(name, value)
  else {
    add(`${name}.count`, 1)
    add(`${name}.sum_ms`, value)
  }
}

function add(name: string, value: number): void {
  totals.set(name, (totals.get(name) ?? 0) + value)
}

function summary(): string {
  return [...totals].map(([name, value]) => `${name}=${value}`).join(' ')
}

// One process, since it holds the totals. Where each datagram stands for itself, `count` may be higher.
const sink = new Worker('udp://127.0.0.1:8888', { name: 'statsd', protocol: statsd })

sink.onMessage = (connection, metrics) => {
  if (metrics.length === 0) connection.send(summary())
  for (const metric of metrics) count(metric)
}

sink.onError = (peer, code, message) => Worker.log(`${peer.getRemoteAddress()} error ${code}: ${message}`)
sink.onWorkerStart = () => Timer.add(10, () => Worker.log(summary() || 'nothing yet'))
sink.onWorkerStop = () => Worker.log(`at the end: ${summary()}`)

Worker.runAll()
