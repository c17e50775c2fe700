// Forms, cookies and the parts of a response: what clients choose reaches no prototype and no other header.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { codingFor } from '../../../protocols/http/codings.ts'
import { parseCookies, serializeCookie, signCookie, verifyCookie } from '../../../protocols/http/cookies.ts'
import { parseForm } from '../../../protocols/http/forms.ts'
import { codeOf } from '../../../src/errors.ts'
import { atLength } from '../../support/length.ts'
import { randomBytes, randomOf, seedOf } from '../../support/random.ts'

const plain = (value: unknown) => JSON.parse(JSON.stringify(value))

test('forms nest as in PHP', () => {
  for (const [text, expected] of [
    ['', {}],
    ['a=1&b=x+y%21', { a: '1', b: 'x y!' }],
    ['a', { a: '' }],
    ['a=1&a=2', { a: '2' }],
    ['foo=bar&key[0]=hello&key[1]=chance', { foo: 'bar', key: ['hello', 'chance'] }],
    ['a[]=1&a[]=2', { a: ['1', '2'] }],
    ['a[b][c]=1&a[b][d][]=2&a[e]=3', { a: { b: { c: '1', d: ['2'] }, e: '3' } }],
    ['a[5]=x&a[]=y', { a: { 5: 'x', 6: 'y' } }],
    ['a=1&a[b]=2', { a: { b: '2' } }],
    ['a[=1&[b]=2&a]=3', { 'a[': '1', '[b]': '2', 'a]': '3' }],
    ['=1&&&c=3', { c: '3' }],
    ['a=%zz&b=%e9&c=%', { a: '%zz', b: '\ufffd', c: '%' }],
    ['a=%C3%A9', { a: '\u00e9' }],
    ['a=%41%ff%41%4%%41%4g%+\u00e9%c3%A9\ud83c\udf89%', { a: 'A\ufffdA%4%A%4g% \u00e9\u00e9\ud83c\udf89%' }],
    ['a=%e2%82x%ac%e2%82%ac', { a: '\ufffdx\ufffd\u20ac' }],
    ['%=%4&%F0%9F=%F0%9F%8E%8', { '%': '%4', '\ufffd': '\ufffd%8' }],
  ] as const)
    assert.equal(plain(parseForm(text)), expected, text)
})

test('forms reach no prototype, and are bounded', () => {
  const evil =
    '__proto__[x]=1&__proto__=2&a[__proto__][x]=3&constructor[prototype][x]=4&b[constructor][prototype]=5&c[x]=7'
  const form = parseForm(evil)
  assert.equal(plain(form), { c: { x: '7' } })
  assert.is(parseForm('constructor=Ferrari').constructor, 'Ferrari')
  assert.is(
    JSON.stringify(parseForm('prototype[]=1&a[constructor][b]=2&a[prototype]=3')),
    '{"prototype":["1"],"a":{"constructor":{"b":"2"},"prototype":"3"}}',
  )
  assert.is(({} as Record<string, unknown>).x, undefined)
  assert.is(Object.getPrototypeOf(form), null)
  assert.throws(
    () => parseForm('a&'.repeat(1001)),
    (error: unknown) => codeOf(error) === 'ERR_TOO_MANY_PARAMETERS',
  )
  assert.throws(
    () => parseForm('a[1][2][3][4][5][6]=x'),
    (error: unknown) => codeOf(error) === 'ERR_FORM_TOO_DEEP',
  )
})

test('any form is a map or a ProtocolError', () => {
  const seed = seedOf('forms')
  const random = randomOf(seed)
  for (let n = 0; n < atLength(2_000, 10_000); n++) {
    const text = randomBytes(random, random(60), 'a[b][0][]=&%41+__proto__[constructor]').toString('latin1')
    try {
      assert.is(Object.getPrototypeOf(parseForm(text)), null)
    } catch (error) {
      assert.is((error as Error).name, 'ProtocolError', `SEED=${seed} ${JSON.stringify(text)}`)
    }
  }
  assert.is(Object.keys(Object.prototype).length, 0)
})

test('malformed escapes cost about what right ones do', () => {
  const best = (text: string) => {
    const times = Array.from({ length: 5 }, () => {
      const started = performance.now()
      parseForm(text)
      return performance.now() - started
    })
    return Math.min(...times)
  }
  const right = best(`a=${'%41b'.repeat(65_536)}`)
  assert.ok(best(`a=${'%ff%'.repeat(65_536)}`) < 25 * right)
})

test('cookies are read as browsers write them', () => {
  const cookies = parseCookies('a=1; b="two"; a=3;c=%C3%A9; d=%zz; bad; =x; __proto__=y; e=a=b;f=')
  assert.equal(
    { ...cookies },
    { ...JSON.parse('{"a":"1","b":"two","c":"\u00e9","d":"%zz","__proto__":"y","e":"a=b","f":""}') },
  )
  assert.is(Object.getPrototypeOf(cookies), null)
})

test('cookies are written safely', () => {
  assert.is(serializeCookie('a', 'b c;\r\n'), 'a=b%20c%3B%0D%0A; Path=/; SameSite=Lax; HttpOnly')
  assert.is(
    serializeCookie('__Host-a', '', { secure: true, maxAge: 0, sameSite: 'None', httpOnly: false, partitioned: true }),
    '__Host-a=; Max-Age=0; Path=/; SameSite=None; Secure; Partitioned',
  )
  assert.throws(
    () => serializeCookie('a', 'x\ud800'),
    (error: unknown) => codeOf(error) === 'ERR_BAD_COOKIE',
  )
  for (const [name, options] of [
    ['a b', {}],
    ['a', { sameSite: 'none' as 'None' }],
    ['a', { sameSite: 'lax; Domain=evil' as 'Lax' }],
    ['a', { expires: new Date(Number.NaN) }],
    ['a', { expires: 'tomorrow' as unknown as Date }],
    ['a', { partitioned: true }],
    ['', {}],
    ['a', { path: '/;x' }],
    ['a', { domain: 'x\r\ny' }],
    ['a', { path: '/\u010d\u010a' }],
    ['a', { sameSite: 'None' }],
    ['__Secure-a', {}],
    ['__Host-a', { secure: true, path: '/x' }],
    ['a', { maxAge: Number.NaN }],
  ] as const)
    assert.throws(
      () => serializeCookie(name, 'x', options),
      (error: unknown) => codeOf(error) === 'ERR_BAD_COOKIE',
      name,
    )
})

test('signed cookies cannot be changed, and secrets can', () => {
  const signed = signCookie('user.7', 'new')
  assert.is(verifyCookie(signed, ['new']), 'user.7')
  assert.is(verifyCookie(signed, ['newer', 'new']), 'user.7')
  for (const forged of [`${signed}x`, signed.replace('7', '8'), 'user.7', '', '.', signCookie('user.7', 'old')])
    assert.is(verifyCookie(forged, ['new']), null, forged)
})

test('codings are negotiated', () => {
  for (const [field, expected] of [
    ['gzip, deflate, br', 'br'],
    ['gzip', 'gzip'],
    ['br;q=0.5, gzip;q=0.8', 'gzip'],
    ['br;q=0, gzip;q=0', null],
    ['*', 'br'],
    ['identity', null],
    ['', null],
    ['*;q=0, gzip', 'gzip'],
    ['X-GZIP', 'gzip'],
    ['br;q=0.8, identity;q=0.9', null],
    ['br;q=0.8, identity;q=0.8', 'br'],
    ['identity;q=0, gzip;q=0.1', 'gzip'],
    ['gzip ; q=0.5 , br ; q=0.4', 'gzip'],
    ['gzip;q=1.5, br;q=0.1', 'br'],
    ['br;q=0.001', 'br'],
    ['deflate, zstd', null],
  ] as const)
    assert.is(codingFor(field, ['br', 'gzip']), expected, field)
})

test.run()
