// A codec plugin: a protocol with state and deadlines, for devices that stay connected for months. A device has five
// seconds to send HELLO, is pinged when it is silent, and receives BYE when its worker leaves, so that it reconnects at
// once and reaches the next one.
//
//   node dist/start.js start dist/examples/gateway.js
//   printf 'HELLO boiler-7\nDATA {"celsius":81}\n' | nc -q 1 127.0.0.1 8888
//   node dist/start.js reload dist/examples/gateway.js      a second nc, left open, receives BYE

import {
  Accumulator,
  type AnyConnection,
  type Codec,
  type CodecIo,
  type CodecProtocol,
  ProtocolError,
  Worker,
} from 'millrace'

interface Reading {
  device: string
  data: unknown
}

const HELLO_TIMEOUT_MS = 5_000
const PING_AFTER_MS = 30_000
/** A device that has not answered within this time has gone. */
const PONG_TIMEOUT_MS = 10_000

class Gateway implements Codec<string> {
  readonly #io: CodecIo<Reading>
  readonly #rest = new Accumulator()
  #device = ''
  /** This many bytes of the rest contain no LF and are not searched again. */
  #searched = 0

  constructor(io: CodecIo<Reading>) {
    this.#io = io
    io.deadline('hello', HELLO_TIMEOUT_MS)
  }

  /** Part of a line has arrived: a drain waits for the rest of it. */
  get isBusy(): boolean {
    return this.#rest.length > 0
  }

  receive(bytes: Buffer): void {
    this.#rest.append(bytes)
    this.#readLines()
  }

  resumed(): void {
    this.#readLines()
  }

  #readLines(): void {
    for (let end = this.#find(); end >= 0; end = this.#find()) {
      const line = this.#rest.view().toString('utf8', 0, end).trimEnd()
      this.#rest.consume(end + 1)
      this.#searched = 0
      if (!this.#line(line)) return // the rest stays until resumed() is called
    }
    this.#searched = this.#rest.length
    if (this.#searched > this.#io.maxPackageSize) throw new ProtocolError('ERR_LINE_TOO_LONG', 'line too long')
  }

  #find(): number {
    return this.#rest.view().indexOf(10, this.#searched)
  }

  /** Returns false to stop. A SyntaxError in DATA costs the device its connection and affects no other. */
  #line(line: string): boolean {
    const [, word = '', rest = ''] = /^(\S*)\s*(.*)$/.exec(line) ?? []
    if (this.#device !== '') this.#io.deadline('silence', PING_AFTER_MS)
    if (word === 'HELLO' && this.#device === '' && rest !== '') return this.#hello(rest)
    if (this.#device === '') throw new ProtocolError('ERR_NO_HELLO', 'HELLO <device> comes first')
    if (word === 'DATA') return this.#io.emit({ device: this.#device, data: JSON.parse(rest) })
    if (word === 'PONG') this.#io.deadline('pong', 0)
    else throw new ProtocolError('ERR_UNKNOWN_WORD', `unknown word '${word}'`)
    return true
  }

  #hello(device: string): boolean {
    this.#device = device
    this.#io.deadline('hello', 0)
    this.#io.deadline('silence', PING_AFTER_MS)
    this.#io.event('onDevice', device)
    this.#io.write('WELCOME\n')
    return true
  }

  timeout(kind: string): void {
    if (kind !== 'silence') return this.#io.close()
    this.#io.deadline('pong', PONG_TIMEOUT_MS)
    this.#io.write('PING\n')
  }

  send(line: string): boolean {
    return this.#io.write(`${line}\n`)
  }

  drain(): void {
    this.#io.write('BYE\n')
  }

  closed(): void {
    // Nothing is held outside this object.
  }
}

export const gateway: CodecProtocol<Reading, string> = {
  name: 'gateway',
  isLongLived: true, // in a drain, thousands of devices are sent away in batches, not all at once
  open: (io) => new Gateway(io),
}

declare module 'millrace' {
  interface ProtocolCallbacks {
    onDevice?: (connection: AnyConnection, device: string) => unknown
  }
}

const worker = new Worker({ listen: 'tcp://127.0.0.1:8888', protocol: gateway, name: 'gateway', count: 2 })

worker.onDevice = (_connection, device) => Worker.log(`${device} is here`)
worker.onMessage = (connection, { device, data }) => {
  Worker.log(`${device}: ${JSON.stringify(data)}`)
  connection.send('OK')
}

Worker.runAll()
