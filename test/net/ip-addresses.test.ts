// IP addresses between text and the words that the kernel takes, against what Node writes and reads.

import net from 'node:net'
import { endianness } from 'node:os'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { type IpAddress, ipAddress, ipv4Address, ipv6Address } from '../../src/net/ip-addresses.ts'
import { randomOf, seedOf } from '../support/random.ts'

const known = (text: string): IpAddress => {
  const found = ipAddress(text)
  assert.ok(found, text)
  return found as IpAddress
}
const bytesOf = ({ words }: IpAddress) => [...new Uint8Array(words.buffer, words.byteOffset, 16)]

test('text is read into bytes in the order of the network', () => {
  assert.equal(bytesOf(known('1.2.3.4')).slice(0, 4), [1, 2, 3, 4])
  assert.is(known('1.2.3.4').words[0], endianness() === 'LE' ? 0x04030201 : 0x01020304)
  assert.equal(bytesOf(known('::1')), [...Array(15).fill(0), 1])
  assert.equal(bytesOf(known('2001:db8::ff00:42:8329')), [
    ...[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0],
    ...[0, 0, 0xff, 0, 0, 0x42, 0x83, 0x29],
  ])
  assert.equal(bytesOf(known('::ffff:1.2.3.4')).slice(10), [255, 255, 1, 2, 3, 4])
  assert.equal([known('1.2.3.4').family, known('::').family, known('::').scope], [4, 6, 0])
  for (const text of ['', 'localhost', '1.2.3', '1.2.3.4.5', ':::', '[::1]']) assert.is(ipAddress(text), null)
})

test('an address goes from words to text and back, and is worked out once', () => {
  const random = randomOf(seedOf('ip addresses'))
  for (let n = 0; n < 2000; n++) {
    const ints = Int32Array.from({ length: 6 }, () => (random(3) === 0 ? 0 : random(2 ** 32)))
    const four = ipv4Address(ints[0] as number)
    assert.ok(net.isIPv4(four.text))
    assert.is(ipAddress(four.text), four)
    const six = ipv6Address(ints, 1, 0)
    assert.ok(net.isIPv6(six.text))
    assert.is(ipAddress(six.text), six)
    assert.equal([...six.words], [...ints.subarray(1, 5)])
    assert.is(ipv6Address(ints, 1, 0), six)
  }
})

test('what is forgotten is read again, the same', () => {
  const before = known('10.0.0.1')
  for (let n = 0; n < 10_000; n++) ipv4Address(n)
  const after = known('10.0.0.1')
  assert.is.not(after, before)
  assert.equal(after, before)
})

test('the interface of a link-local address is named, or has its number; what has neither is no address', () => {
  const words = Int32Array.from(known('fe80::1').words)
  assert.is(ipv6Address(words, 0, 999_999).text, 'fe80::1%999999')
  assert.is(known('fe80::2%999999').scope, 999_999)
  for (const text of ['fe80::2%nowhere', 'fe80::2%', 'fe80::2%0', '1.2.3.4%999999', '%999999'])
    assert.is(ipAddress(text), null, text)
})

test.run()
