// Headers of the PROXY protocol: what the specification shows, every cut of them, and what nobody should believe.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type ProxyHeader, parseProxyHeader, TrustedPeers } from '../../src/net/proxy-protocol.ts'
import { randomBytes, randomOf, seedOf } from '../support/random.ts'

const SIGNATURE = '\r\n\r\n\0\r\nQUIT\n'

function v2(command: number, family: number, body: Buffer): Buffer {
  const head = Buffer.from([command, family, body.length >> 8, body.length & 0xff])
  return Buffer.concat([Buffer.from(SIGNATURE, 'latin1'), head, body])
}

function value(type: number, bytes: string | Buffer): Buffer {
  const content = Buffer.from(bytes as string, 'latin1')
  return Buffer.concat([Buffer.from([type, content.length >> 8, content.length & 0xff]), content])
}

const IPV4 = Buffer.from([192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb])
const IPV6 = Buffer.from('20010db8000000000000000000000001fe800000000000000000000000000002dc0401bb', 'hex')

function parsed(bytes: Buffer): ProxyHeader {
  const header = parseProxyHeader(bytes)
  if (header === 0) throw new Error('it is not whole')
  return header
}

for (const [line, ends] of [
  ['PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535', ['255.255.255.255', 65535, '255.255.255.255', 65535]],
  ['PROXY TCP4 192.168.0.1 192.168.0.11 56324 443', ['192.168.0.1', 56324, '192.168.0.11', 443]],
  [
    'PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 0',
    ['ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 65535, 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 0],
  ],
  ['PROXY TCP6 2001:DB8:0:0::1 ::FFFF:1.2.3.4 1 2', ['2001:db8::1', 1, '::ffff:1.2.3.4', 2]],
  ['PROXY UNKNOWN', null],
  ['PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535', null],
] as const) {
  test(`v1: ${line.slice(0, 40)}`, () => {
    const header = parsed(Buffer.from(`${line}\r\nrest`))
    assert.is(header.length, line.length + 2)
    const { remoteIp, remotePort, localIp, localPort } = header.ends ?? {}
    assert.equal(ends, header.ends === null ? null : [remoteIp, remotePort, localIp, localPort])
  })
}

test('v2: IPv4, IPv6, a Unix socket, a proxy that speaks for itself, and one that does not know', () => {
  assert.equal(parsed(v2(0x21, 0x11, IPV4)).ends, {
    ...{ remoteIp: '192.0.2.1', remotePort: 56324, localIp: '192.0.2.2', localPort: 443 },
  })
  assert.equal(parsed(v2(0x21, 0x21, IPV6)).ends, {
    ...{ remoteIp: '2001:db8::1', remotePort: 56324, localIp: 'fe80::2', localPort: 443 },
  })
  const mapped = Buffer.concat([Buffer.from('00000000000000000000ffff01020304', 'hex'), IPV6.subarray(16)])
  assert.is(parsed(v2(0x21, 0x21, mapped)).ends?.remoteIp, '::ffff:1.2.3.4')
  assert.is(parsed(v2(0x21, 0x31, Buffer.alloc(216))).ends?.remoteIp, '')
  assert.is(parsed(v2(0x20, 0x00, Buffer.alloc(0))).ends, null)
  assert.is(parsed(v2(0x20, 0x11, IPV4)).ends, null)
  assert.is(parsed(v2(0x21, 0x00, Buffer.alloc(7))).length, 23)
})

test('v2: what it tells besides', () => {
  const tls = Buffer.concat([
    Buffer.from([0x07, 0, 0, 0, 0]),
    value(0x21, 'TLSv1.3'),
    value(0x22, 'alice'),
    value(0x23, 'TLS_AES_128_GCM_SHA256'),
  ])
  const values = [
    value(1, 'h2'),
    value(2, 'example.org'),
    value(4, 'xxx'),
    value(5, 'id-1'),
    value(0x20, tls),
    value(0xe0, 'own'),
  ]
  const { info } = parsed(v2(0x21, 0x11, Buffer.concat([IPV4, ...values])))
  assert.equal([info.alpn, info.authority, info.uniqueId?.toString()], ['h2', 'example.org', 'id-1'])
  assert.equal(info.tls, {
    ...{ version: 'TLSv1.3', cipher: 'TLS_AES_128_GCM_SHA256', commonName: 'alice' },
    ...{ hasCertificate: true, isVerified: true },
  })
  assert.is(info.values.get(0xe0)?.toString(), 'own')
  assert.not(info.values.has(4))
})

test('v2: a checksum is checked', () => {
  // "123456789" has 0xe3069283 (RFC 3720 B.4 has more): here of a whole header, computed bit by bit.
  const header = v2(0x21, 0x11, Buffer.concat([IPV4, value(3, '\0\0\0\0')]))
  let crc = 0xffffffff
  for (const byte of header) {
    crc ^= byte
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
  }
  header.writeUInt32BE((crc ^ 0xffffffff) >>> 0, header.length - 4)
  assert.is(parsed(header).ends?.remoteIp, '192.0.2.1')
  header[20] = 9
  assert.throws(() => parsed(header), /its checksum is wrong/)
})

for (const [what, bytes, says] of [
  ['another protocol', 'GET / HTTP/1.1\r\n', /there is none/],
  ['almost v1', 'PROXYTCP4', /there is none/],
  ['almost v2', '\r\n\r\n\0\r\nQUIX', /there is none/],
  ['two spaces', 'PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n', /malformed/],
  ['a leading zero in a port', 'PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n', /malformed/],
  ['a leading zero in an address', 'PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n', /an address is not of TCP4/],
  ['a port too high', 'PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n', /over 65535/],
  ['IPv6 as TCP4', 'PROXY TCP4 ::1 ::1 1 1\r\n', /an address is not of TCP4/],
  ['a zone', 'PROXY TCP6 fe80::1%lo fe80::2 1 1\r\n', /an address is not of TCP6/],
  ['IPv4 as TCP6', 'PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n', /an address is not of TCP6/],
  ['lower case', 'PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n', /malformed/],
  ['a bare LF', 'PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n\r\n', /malformed/],
  ['no end', `PROXY TCP4 ${'1'.repeat(200)}`, /longer than 107 bytes/],
  ['version 3', v2(0x31, 0x11, IPV4), /version and command are 0x31/],
  ['command 2', v2(0x22, 0x11, IPV4), /version and command are 0x22/],
  ['UDP on a stream', v2(0x21, 0x12, IPV4), /family is 0x12/],
  ['an unknown family', v2(0x21, 0x41, IPV4), /family is 0x41/],
  ['short addresses', v2(0x21, 0x21, IPV4), /addresses are cut short/],
  [
    'a value that goes on too far',
    v2(0x21, 0x11, Buffer.concat([IPV4, Buffer.from([1, 0, 9, 1])])),
    /values are cut short/,
  ],
  ['half a value', v2(0x21, 0x11, Buffer.concat([IPV4, Buffer.from([1, 0])])), /values are cut short/],
  ['short TLS', v2(0x21, 0x11, Buffer.concat([IPV4, value(0x20, 'abc')])), /TLS is cut short/],
  ['a checksum of three bytes', v2(0x21, 0x11, Buffer.concat([IPV4, value(3, 'abc')])), /has not 4 bytes/],
  ['more than anybody needs', v2(0x21, 0x11, Buffer.alloc(5000)), /it declares 5000 bytes/],
] as const) {
  test(`refused: ${what}`, () => {
    const whole = Buffer.from(bytes as string, 'latin1')
    assert.throws(() => parsed(whole), says)
    let outcome: unknown = 0
    for (let end = 0; end <= whole.length && outcome === 0; end++) {
      try {
        outcome = parseProxyHeader(whole.subarray(0, end))
      } catch (error) {
        outcome = error
      }
    }
    assert.match(String(outcome), says) // and never taken for whole on the way
  })
}

test('cut anywhere it needs more, and then says the same', () => {
  for (const whole of [
    Buffer.from('PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n'),
    v2(0x21, 0x21, Buffer.concat([IPV6, value(2, 'x')])),
  ]) {
    for (let end = 0; end < whole.length; end++) assert.is(parseProxyHeader(whole.subarray(0, end)), 0, `${end}`)
    assert.is(parsed(Buffer.concat([whole, Buffer.from('PROXY')])).length, whole.length)
  }
})

test('random bytes behind a good beginning: a header or a ProtocolError', () => {
  const random = randomOf(seedOf('proxy-protocol'))
  for (let n = 0; n < 20_000; n++) {
    const noise = randomBytes(random, random(64), ' \r\nTCP46.:0123456789')
    const begin = [
      Buffer.from('PROXY '),
      Buffer.from('PROXY TCP4 '),
      v2(0x21, 0x11, IPV4).subarray(0, 12 + random(17)),
    ][random(3)]
    try {
      const header = parseProxyHeader(Buffer.concat([begin as Buffer, noise]))
      assert.ok(header === 0 || header.length <= 16 + 4096)
    } catch (error) {
      assert.is((error as { code?: string }).code, 'ERR_PROXY_HEADER')
    }
  }
})

test('who is trusted: addresses, networks, mapped ones, Unix sockets; a bad network is refused', () => {
  const trusted = new TrustedPeers(['10.0.0.0/8', '192.0.2.1', 'fd00::/8', '::1'])
  for (const ip of ['10.1.2.3', '192.0.2.1', 'fd12::1', '::1']) assert.ok(trusted.has(ip), ip)
  for (const ip of ['11.0.0.1', '192.0.2.2', 'fe80::1%eth0', '']) assert.not(trusted.has(ip), ip)
  assert.ok(trusted.has('::ffff:10.1.2.3'))
  assert.ok(new TrustedPeers(['unix']).has(''))
  for (const text of ['10.0.0.0/33', 'x', '10.0.0.0/', '::/129', '', '1.2.3.4/-1'])
    assert.throws(() => new TrustedPeers([text]), /is no address and no network/)
  for (const text of ['fe80::1%eth0', 'fe80::%eth0/64'])
    assert.throws(() => new TrustedPeers([text]), /trusts whoever has .* at any interface: write it without %eth0/)
})

test.run()
