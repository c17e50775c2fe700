// Subjects and who hears what is published on them: wildcards, queue groups, requests, within a process and over several.

import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { SubjectTree } from '../../src/messaging/subjects.ts'
import { drive, driveToThrow, startDriven } from '../support/driven.ts'
import { inSandbox, workersOf } from '../support/server.ts'
import { until } from '../support/until.ts'

const groups = `
  const got = []
  const keep = (label) => (message, { subject, from }) => { got.push([label, subject, message, from.group]) }
  const subs = new Worker({ name: 'subs', count: 2 })
  const open = new Map()
  Channel.subscribe('top.level', keep('top')) // at top level: in every process
  subs.onWorkerStart = () => {
    Channel.subscribe('orders.*', keep('star'))
    Channel.subscribe('orders.>', keep('rest'))
    Channel.subscribe('jobs', keep('queue'), { queue: 'workers' })
    Channel.subscribe('jobs', keep('other'), { queue: 'audit' })
    Channel.subscribe('who', () => (subs.id === 1 ? ['subs', subs.id] : undefined))
    Channel.subscribe('slow', async (message, { call }) => { if (message === 'numbers') return numbers(); await new Promise((resolve) => call.signal.addEventListener('abort', resolve)); got.push(['aborted']) }, { queue: 'slow' })
    Channel.subscribe('broken', () => { throw new TypeError('on purpose') })
  }
  async function* numbers() { yield 1; yield 2 }
  const handle = async (from, { ask, subject, queue }) => {
    if (ask === 'got') return got.splice(0)
    if (ask === 'subscribe') { const one = Channel.subscribe(subject, keep(subject), { queue }); open.set(subject, one); return one.ready }
    if (ask === 'unsubscribe') { open.get(subject).unsubscribe(); open.get(subject).unsubscribe() }
    if (ask === 'publish') return Channel.publish(subject, 'from subs')
    if (ask === 'die') process.kill(process.pid, 'SIGKILL')
  }
  subs.onMessage = handle
  driver.onWorkerMessage = handle
  state.all = async () => {
    const lists = []
    for (const ref of [subs.worker(0), subs.worker(1), driver.worker(0)]) lists.push(await ref.request({ ask: 'got' }))
    return lists
  }
`

test('what is published goes to whoever listens: wildcards, queue groups, requests, and nowhere else', () =>
  inSandbox(async (box) => {
    const port = await startDriven(box, groups)
    const run = <T>(code: string) => drive<T>(port, code)
    const after = async (code: string) => {
      await run(code)
      return run<[string, string, unknown, string][][]>(`return state.all()`)
    }
    // The first one waits until every process has said what it wants; own subscribers get it too.
    await run(
      `while (!(state.first ??= await state.all()).every((list) => list.length > 0)) state.first = (await state.all()).map((list, at) => [...state.first[at], ...list])`.replace(
        'while',
        `Channel.publish('top.level', { a: 1 }); while`,
      ),
    )
    assert.equal(await run(`return state.first`), Array(3).fill([['top', 'top.level', { a: 1 }, 'driver']]))
    const both = [
      ['rest', 'orders.new', 'x', 'driver'],
      ['star', 'orders.new', 'x', 'driver'],
    ]
    const orders = await after(`return Channel.publish('orders.new', 'x')`)
    assert.equal(
      orders.map((list) => list.sort()),
      [both, both, []],
    )
    assert.equal(
      (await after(`return Channel.publish('orders.new.eu', 'y')`)).map((list) => list.map(([label]) => label)),
      [['rest'], ['rest'], []],
    )
    assert.equal(await after(`return [Channel.publish('orders', 'z'), Channel.publish('nobody', 'z')]`), [[], [], []])

    // Of each queue group one.
    await run(`for (let n = 0; n < 20; n++) Channel.publish('jobs', n)`)
    const jobs = await run<[string, string, number][][]>(`return state.all()`)
    for (const queue of ['queue', 'other']) {
      const numbers = jobs.flat().filter(([label]) => label === queue)
      assert.equal(
        numbers.map(([, , n]) => n).sort((a, b) => a - b),
        Array.from({ length: 20 }, (_, n) => n),
      )
    }
    for (const list of jobs.slice(0, 2)) assert.ok(list.length >= 10, 'both processes have their share')

    // Who subscribes later is known when it is ready; who unsubscribes is not called any more.
    await run(`return groups.subs.worker(1).request({ ask: 'subscribe', subject: 'late.*' })`)
    assert.equal(
      (await after(`Channel.publish('late.one', 1)`)).map((list) => list.length),
      [0, 1, 0],
    )
    await run(`return groups.subs.worker(1).request({ ask: 'unsubscribe', subject: 'late.*' })`)
    assert.equal(
      (await after(`Channel.publish('late.one', 2)`)).map((list) => list.length),
      [0, 0, 0],
    )
    await run(`await groups.driver.worker(0).request({ ask: 'subscribe', subject: 'mine' })`)
    await run(`return groups.subs.worker(0).request({ ask: 'publish', subject: 'mine' })`)
    await run(`while ((state.mine ??= (await state.all())[2]).length === 0) state.mine = undefined`)
    assert.equal(await run(`return state.mine`), [['mine', 'mine', 'from subs', 'subs']])

    // Requests: the first answer, streams, nobody, errors, and an end when nobody waits.
    assert.equal(await run(`return Channel.request('who', 0)`), ['subs', 1])
    assert.equal(
      await run(
        `const all = []; for await (const n of await Channel.request('slow', 'numbers')) all.push(n); return all`,
      ),
      [1, 2],
    )
    const wrong: [string, string, RegExp][] = [
      [`await Channel.request('nobody', 0)`, 'ERR_NO_RESPONDERS', /nobody listens to nobody/],
      [`await Channel.request('jobs', 0)`, 'ERR_NO_RESPONDERS', /nobody answered/],
      [`await Channel.request('broken', 0)`, '', /on purpose/],
      [`await Channel.request('slow', 0, { timeoutMs: 20 })`, 'ERR_REQUEST_TIMEOUT', /./],
      [`Channel.publish('a.*', 0)`, 'ERR_BAD_SUBJECT', /"a\.\*"/],
      [`Channel.publish('', 0)`, 'ERR_BAD_SUBJECT', /""/],
      [`Channel.publish(1n, 0)`, 'ERR_BAD_SUBJECT', /subject 1n:/],
      [`Channel.subscribe(undefined, () => 0)`, 'ERR_BAD_SUBJECT', /subject undefined:/],
      [`groups.subs.worker('1')`, 'ERR_UNKNOWN_WORKER', /no worker '1': it has 0-1$/],
      [`Channel.publish('a.\\ud800', 0)`, 'ERR_BAD_SUBJECT', /"a\.\\ud800"/],
      [`Channel.subscribe('\\udc00.*', () => 0)`, 'ERR_BAD_SUBJECT', /surrogate|it must be/],
      [`Channel.subscribe('a', () => 0, { queue: '\\ud800' })`, 'ERR_BAD_SUBJECT', /it must be/],
      [`Channel.subscribe('a.>.b', () => 0)`, 'ERR_BAD_SUBJECT', /'>' for the rest/],
      [`Channel.subscribe('a b', () => 0)`, 'ERR_BAD_SUBJECT', /./],
      [`Channel.subscribe('a', () => 0, { queues: 'q' })`, 'ERR_UNKNOWN_OPTION', /queues/],
      [`await Channel.request('a', 0, { timeoutMs: '5' })`, 'ERR_BAD_OPTION', /timeoutMs/],
      [`await driver.worker(0).request(0, { timeout: 5 })`, 'ERR_UNKNOWN_OPTION', /timeout/],
      [`Channel.subscribe('a')`, 'ERR_BAD_OPTION', /a function/],
      [`Channel.publish('jobs', () => 0)`, 'ERR_CANNOT_CLONE', /./],
    ]
    for (const [code, expected, message] of wrong) {
      const error = await driveToThrow(port, code)
      assert.is(error.code ?? '', expected, code)
      assert.match(error.message, message)
    }
    await until(async () =>
      (await run<[string][][]>(`return state.all()`)).flat().some(([label]) => label === 'aborted'),
    )

    // A process that dies and comes back listens again, as soon as it is ready.
    const { pid } = workersOf(await box.status()).find(({ id }) => id === 1) as { pid: number }
    await run(`groups.subs.worker(1).send({ ask: 'die' })`)
    await until(
      async () => workersOf(await box.status()).some((one) => one.id === 1 && one.pid !== pid && one.state === 'ready'),
      20_000,
    )
    // It may have to say first what it wants: the publisher waits for that, and nobody for the publisher.
    await run(`Channel.publish('orders.new', 'again')`)
    let heard = [0, 0, 0]
    await until(async () => {
      const lists = await run<unknown[][]>(`return state.all()`)
      heard = heard.map((count, at) => count + (lists[at]?.length ?? 0))
      return heard[0] === 2 && heard[1] === 2
    })
    assert.equal(heard, [2, 2, 0])
    await box.stop()
  }))

test('subjects: patterns by token, as NATS', () => {
  const tree = new SubjectTree<string>()
  const patterns = ['a', 'a.b', 'a.*', '*.b', 'a.>', '>', '*', 'a.*.c', 'a.b.c.d']
  const matches = (pattern: string, subject: string) => {
    const [want, have] = [pattern.split('.'), subject.split('.')]
    const isSame = want.every(
      (token, at) => have[at] !== undefined && (token === '*' || token === '>' || token === have[at]),
    )
    return isSame && (want.length === have.length || want.at(-1) === '>')
  }
  const subjects = ['a', 'b', 'a.b', 'a.x', 'x.b', 'a.b.c', 'a.x.c', 'a.b.c.d', 'x.y.z']
  for (const round of [patterns, patterns.slice(3), []]) {
    for (const pattern of patterns) {
      tree.delete(pattern, pattern)
      if (round.includes(pattern)) tree.add(pattern, pattern)
    }
    for (const subject of subjects) {
      assert.equal(
        [...tree.match(subject)].sort(),
        round.filter((pattern) => matches(pattern, subject)).sort(),
        subject,
      )
    }
  }
})

test.run()
