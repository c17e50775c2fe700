// Addresses as users write them: what is taken, what is refused, and what the refusal says.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { formatEndpoint } from '../../src/endpoint.ts'
import { codeOf } from '../../src/errors.ts'
import { type Address, authorityOf, checkUnixPath, parseAddress, parseTarget } from '../../src/net/address.ts'

const tcp = (scheme: string, host: string, port: number): Address => ({
  scheme,
  transport: 'tcp',
  host,
  port,
  path: '',
})
const unix = (path: string): Address => ({ scheme: 'unix', transport: 'unix', host: '', port: 0, path })

test('a TCP address has a scheme, a host and a port', () => {
  for (const [text, address] of [
    ['tcp://0.0.0.0:8888', tcp('tcp', '0.0.0.0', 8888)],
    ['text://127.0.0.1:0', tcp('text', '127.0.0.1', 0)],
    ['TEXT://localhost:65535', tcp('text', 'localhost', 65535)],
    ['http://example.org:80/', tcp('http', 'example.org', 80)],
    ['my+proto-1.0://h:1', tcp('my+proto-1.0', 'h', 1)],
    ['tcp://[::]:8888', tcp('tcp', '::', 8888)],
    ['tcp://[::ffff:1.2.3.4]:1', tcp('tcp', '::ffff:1.2.3.4', 1)],
    ['tcp://[fe80::1%eth0]:1', tcp('tcp', 'fe80::1%eth0', 1)],
  ] as const) {
    assert.equal(parseAddress(text), address, text)
  }
})

test('a Unix address is a path, of at most 107 bytes', () => {
  assert.equal(parseAddress('unix:///run/app.sock'), unix('/run/app.sock'))
  assert.equal(parseAddress('unix://relative.sock'), unix('relative.sock'))
  assert.equal(parseAddress('UNIX:///a b:c'), unix('/a b:c'))
  const longest = `/${'x'.repeat(106)}`
  assert.equal(parseAddress(`unix://${longest}`), unix(longest))
  for (const path of [`${longest}x`, `/${'\u00e9'.repeat(54)}`]) {
    assert.throws(
      () => parseAddress(`unix://${path}`),
      (error: unknown) => codeOf(error) === 'ERR_UNIX_PATH_TOO_LONG',
    )
    assert.throws(
      () => checkUnixPath(path),
      (error: unknown) => codeOf(error) === 'ERR_UNIX_PATH_TOO_LONG',
    )
  }
})

test('anything else is refused, with what was given, the reason and an example', () => {
  for (const text of [
    '',
    '8888',
    ':8888',
    'localhost:8888',
    'tcp:127.0.0.1:8888',
    'tcp://',
    'tcp://127.0.0.1',
    'tcp://127.0.0.1:',
    'tcp://:8888',
    'tcp://127.0.0.1:65536',
    'tcp://127.0.0.1:-1',
    'tcp://127.0.0.1:1e3',
    'tcp://127.0.0.1:80/path',
    'tcp://user@host name:80',
    'tcp://::1:80',
    'tcp://[1.2.3.4]:80',
    'tcp://[:::]:80',
    'tcp://[]:80',
    '1tcp://a:1',
    'tcp ://a:1',
    'unix://',
    'unix:///a\0b',
    'tcp://a:1\n',
  ]) {
    assert.throws(
      () => parseAddress(text),
      (error: Error) =>
        codeOf(error) === 'ERR_BAD_ADDRESS' &&
        error.message.includes(`'${text}'`) &&
        error.message.includes('write tcp'),
      JSON.stringify(text),
    )
  }
})

test('a Host field has no zone, which names an interface of the client, and a name in ASCII', () => {
  for (const [address, authority] of [
    ['ws://example.org/chat', 'example.org'],
    ['ws://example.org:81', 'example.org:81'],
    ['ws://my_host:81', 'my_host:81'],
    ['ws://127.0.0.1', '127.0.0.1'],
    ['ws://[::1]:81', '[::1]:81'],
    ['ws://[fe80::1%eth0]', '[fe80::1]'],
    ['ws://[fe80::1%eth0]:81', '[fe80::1]:81'],
    ['ws://b\u00fccher.example:81', 'xn--bcher-kva.example:81'],
    ['unix:///run/app.sock', 'localhost'],
  ] as const)
    assert.is(authorityOf(parseTarget(address, 80), 80), authority)
})

test('a client gets an internationalised name in ASCII, as it goes out; what has no such form is no name', () => {
  for (const [address, host] of [
    ['wss://b\u00fccher.example/chat', 'xn--bcher-kva.example'],
    ['wss://STRA\u00dfE.example', 'xn--strae-oqa.example'],
    ['wss://\u65e5\u672c.example', 'xn--wgv71a.example'],
    ['wss://Example.org', 'Example.org'],
    ['wss://my_host', 'my_host'],
    ['wss://[fe80::1%eth0]', 'fe80::1%eth0'],
  ] as const)
    assert.is(parseTarget(address, 443).host, host)
  for (const name of ['a\u200db', '\u00fc%', 'xn--\u00fc', '\u00fc\\x'])
    assert.throws(
      () => parseTarget(`wss://${name}.example`, 443),
      (error: Error) => codeOf(error) === 'ERR_BAD_ADDRESS' && error.message.includes(`${name}.example has no form`),
      name,
    )
})

test('an endpoint is written as it is read', () => {
  assert.is(formatEndpoint('127.0.0.1', 80), '127.0.0.1:80')
  assert.is(formatEndpoint('::1', 80), '[::1]:80')
})

test.run()
