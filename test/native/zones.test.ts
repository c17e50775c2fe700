// The interface that the zone of a link-local address names, while interfaces go and come back: over a network of its
// own (unshare(1), ip(8)).

import { execFileSync, spawnSync } from 'node:child_process'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { ipAddress, ipv6Address } from '../../src/net/ip-addresses.ts'
import { longTest } from '../support/length.ts'
import { until } from '../support/until.ts'
import { where } from '../support/where.ts'

const PEER = 'fe80::1234%v0'
const isInside = process.env.TEST_IN_NETWORK === 'its own'
const canBeMade = () => spawnSync('unshare', ['-rn', 'ip', 'link', 'add', 'type', 'veth']).status === 0

if (isInside) {
  test('an interface that comes up, or is made anew, is the one that its zone names from then on', async () => {
    add('v0', 'v1')
    assert.is(ipAddress(PEER), null, 'it is not up')
    up('v0')
    const before = numberOf('v0')
    await until(() => ipAddress(PEER)?.scope === before)
    assert.is(ipv6Address(wordsOf(PEER), 0, before).text, PEER)
    ip('link del v0')
    add('w0', 'w1') // which takes the next number
    ip('link del w0')
    add('v0', 'v1')
    up('v0')
    const after = numberOf('v0')
    assert.is.not(after, before)
    await until(() => ipAddress(PEER)?.scope === after)
    assert.is(ipv6Address(wordsOf(PEER), 0, after).text, PEER)
    assert.is(ipv6Address(wordsOf(PEER), 0, before).text, `fe80::1234%${before}`)
  })

  longTest('an interface that is renamed has its new name, and one that is gone has its number', async () => {
    const [number, words] = [numberOf('v0'), wordsOf('fe80::1234')]
    ip('link set v0 down')
    ip('link set v0 name a_b')
    up('a_b')
    await until(() => ipv6Address(words, 0, number).text === 'fe80::1234%a_b')
    assert.is(ipAddress('fe80::1234%a_b')?.scope, number)
    assert.is(ipAddress(PEER), null)
    ip('link del a_b')
    await until(() => ipv6Address(words, 0, number).text === `fe80::1234%${number}`)
    assert.is(ipAddress(`fe80::1234%${number}`)?.scope, number)
  })
} else {
  where(canBeMade(), 'a network of its own')('in a network of its own', () => {
    const env = { ...process.env, TEST_IN_NETWORK: 'its own' }
    const { status, stdout } = spawnSync('unshare', ['-rn', process.execPath, ...process.argv.slice(1)], { env })
    assert.is(status, 0, String(stdout))
  })
}

function ip(line: string): string {
  return execFileSync('ip', line.split(' '), { encoding: 'utf8' })
}

function wordsOf(text: string): Int32Array {
  return ipAddress(text)?.words ?? new Int32Array(4)
}

/** A pair of interfaces, of which the second is up. */
function add(name: string, peer: string): void {
  ip(`link add ${name} type veth peer name ${peer}`)
  ip(`link set ${peer} up`)
}

/** With an address that counts at once, while the kernel still asks whether its own is unique. */
function up(name: string): void {
  ip(`link set ${name} up`)
  ip(`addr add fe80::99/64 dev ${name} nodad`)
}

function numberOf(name: string): number {
  return Number.parseInt(ip(`-o link show ${name}`), 10)
}

test.run()
