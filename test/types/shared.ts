// Compiled only: what shared maps, counters, leaders and crontabs accept and give.

import { Crontab, Shared, Worker } from '../../src/index.ts'

interface Session {
  readonly user: string
}

const sessions = Shared.map<Session>('sessions')
export const found: Promise<Session | undefined> = sessions.get('a')
export const isSet: Promise<boolean> = sessions.add('a', { user: 'ann' }, { ttlMs: 1000 })
void sessions.compareAndSet('a', undefined, { user: 'bob' })
// @ts-expect-error: it has no user
void sessions.set('a', {})
// @ts-expect-error: seconds are not what it takes
void sessions.set('a', { user: 'ann' }, { ttl: 1 })

export async function watch(): Promise<string> {
  for await (const change of sessions.watch({ key: 'a' })) {
    if (change.type === 'set') return change.value.user
    if (change.type === 'delete') return change.key
    // @ts-expect-error: what is lost has no key
    if (change.type === 'lost') return change.key
  }
  return ''
}

Shared.counter('hits').add()
export const sum: Promise<number> = Shared.counter('hits').addAndGet(2)

export const withdraw: () => Promise<void> = Worker.onLeader('job', (signal: AbortSignal) => () => signal.aborted)
new Crontab('* * * * *', (time: Date, signal: AbortSignal) => [time, signal], { name: 'all', singleton: true })
new Crontab('* * * * *', () => undefined, 'named')
// @ts-expect-error: there is no such policy
new Crontab('* * * * *', () => undefined, { missed: 'all' })
