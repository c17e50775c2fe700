// A complete protocol plugin: one JSON value per line. A helper does the framing, so three short functions are enough.
//
//   node dist/start.js start dist/examples/json-lines.js
//   echo '{"op":"add","a":1,"b":2}' | nc -q 1 127.0.0.1 8888

import { delimited, type Protocol, UsageError, Worker } from 'millrace'

interface Request {
  op: 'add' | 'stats'
  a?: number
  b?: number
}

type Reply = { result: number } | { error: string }

export const jsonLines: Protocol<Request, Reply> = {
  name: 'json-lines',
  lends: true, // decode makes objects and strings: nothing it returns aliases the packet
  input: delimited('\n'),
  decode: (line) => JSON.parse(line.toString()) as Request, // a SyntaxError closes that connection and no other
  encode: (reply) => {
    const line = JSON.stringify(reply)
    if (line === undefined) throw new UsageError('ERR_ENCODE', 'JSON has no form for undefined')
    return `${line}\n`
  },
}

const worker = new Worker({ listen: 'tcp://127.0.0.1:8888', protocol: jsonLines, name: 'json', count: 2 })

worker.onMessage = (connection, { op, a = 0, b = 0 }) => {
  if (op === 'add') connection.send({ result: a + b })
  else if (op === 'stats') connection.send({ result: worker.connections.size })
  else connection.send({ error: `unknown op ${op}` })
}

worker.onError = (connection, code, message) => Worker.log(`${connection.getRemoteAddress()} error ${code}: ${message}`)

Worker.runAll()
