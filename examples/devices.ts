// A gateway for devices with a binary protocol: two bytes of length, one of type, then the fields of that type. Framing
// takes one line, decoding and encoding one function each. A malformed reading costs that device its connection and
// affects no other.
//
//   node dist/start.js start dist/examples/devices.js
//   printf '\0\7\1\0\0\0\52' | nc -q 1 127.0.0.1 8888 | xxd      HELLO of device 42
//   printf '\0\11\2\0\0\0\52\3\65' | nc -q 1 127.0.0.1 8888 | xxd    READING of device 42: 82.1 degrees

import { lengthPrefixed, type Protocol, ProtocolError, Worker } from 'millrace'

type FromDevice = { type: 'hello'; device: number } | { type: 'reading'; device: number; celsius: number }
type ToDevice = { type: 'welcome'; everySeconds: number } | { type: 'stored'; count: number }

const HELLO = 1
const READING = 2
const WELCOME = 0x81
const STORED = 0x82

const devices: Protocol<FromDevice, ToDevice> = {
  name: 'devices',
  lends: true, // nothing that decode returns aliases the packet
  input: lengthPrefixed({ bytes: 2, includesHeader: true }),
  decode(packet) {
    const type = packet.readUInt8(2)
    const device = packet.readUInt32BE(3) // a packet that is too short throws here, which becomes a ProtocolError
    if (type === HELLO) return { type: 'hello', device }
    if (type === READING) return { type: 'reading', device, celsius: packet.readInt16BE(7) / 10 }
    throw new ProtocolError('ERR_BAD_PACKET', `a packet of type ${type}`)
  },
  encode(message) {
    const packet = Buffer.alloc(5)
    packet.writeUInt16BE(packet.length, 0)
    packet.writeUInt8(message.type === 'welcome' ? WELCOME : STORED, 2)
    packet.writeUInt16BE(message.type === 'welcome' ? message.everySeconds : message.count, 3)
    return packet
  },
}

const worker = new Worker({
  listen: 'tcp://0.0.0.0:8888',
  protocol: devices,
  name: 'devices',
  count: 2,
  idleTimeoutMs: 120_000,
})

let count = 0

worker.onMessage = (connection, message) => {
  if (message.type === 'hello') return connection.send({ type: 'welcome', everySeconds: 60 })
  Worker.log(`device ${message.device}: ${message.celsius} degrees`)
  return connection.send({ type: 'stored', count: ++count })
}

Worker.runAll()
