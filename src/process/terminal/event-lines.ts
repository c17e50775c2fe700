// Events in readable form, one per line: `12:30:01 echo:2 exit signal SIGKILL after 3.2 s`. Names and reasons come from
// user code, so control characters are replaced.

import { printableCell } from '../../printable.ts'
import { inSeconds, localTime } from '../../times.ts'
import type { EventLine } from '../status/event-stream.ts'
import type { OperationEvent } from '../status/events.ts'
import { type Paint, plain, type Style } from './style.ts'

type Told = EventLine['event']

export function renderEvent(event: Told, paint: Paint = plain): string {
  const { who, what, style } = wordsOf(event)
  const time = 'time' in event ? localTime(new Date(event.time)).slice(-8) : '--:--:--'
  return `${paint('quiet', time)} ${printableCell(who).padEnd(12)} ${paint(style, printableCell(what))}`
}

/** The same without the time, for the progress of a command. */
export function phraseOf(event: Told): string {
  const { who, what } = wordsOf(event)
  return printableCell(`${who}: ${what}`)
}

interface Words {
  readonly who: string
  readonly what: string
  readonly style: Style
}

function wordsOf(event: Told): Words {
  switch (event.type) {
    case 'server':
      return {
        who: 'server',
        what: withReason(event.state, event.reason),
        style: event.reason === '' ? 'strong' : 'bad',
      }
    case 'spawn':
      return { who: event.worker, what: `spawn pid ${event.pid}, incarnation ${event.incarnation}`, style: 'quiet' }
    case 'ready':
      return { who: event.worker, what: `ready pid ${event.pid} in ${event.readyMs} ms`, style: 'good' }
    case 'retire':
      return { who: event.worker, what: `retire pid ${event.pid}`, style: 'quiet' }
    case 'leave':
      return { who: event.worker, what: `leave pid ${event.pid} within ${inSeconds(event.windowMs)}`, style: 'quiet' }
    case 'exit': {
      const killed = event.wasKilled ? ', killed: its time was up' : ''
      const what = `exit pid ${event.pid}: ${event.word} after ${inSeconds(event.aliveMs)}${killed}`
      return { who: event.worker, what: withReason(what, event.reason), style: event.isExpected ? 'quiet' : 'bad' }
    }
    case 'backoff': {
      const when = event.waitMs === 0 ? 'at once' : `in ${inSeconds(event.waitMs)}`
      return { who: event.worker, what: `starts again ${when}, failures in a row: ${event.failures}`, style: 'care' }
    }
    case 'operation':
      return { who: [event.operation, ...event.groups].join(' '), ...operationWords(event) }
    case 'slot': {
      if (event.result === 'canary')
        return { who: event.worker, what: `canary pid ${event.newPid} beside ${event.oldPid}`, style: 'care' }
      const pids = [event.oldPid, event.newPid].filter((pid) => pid !== 0).join(' by ')
      const what = `${event.result}${pids && ` pid ${pids}`}${event.note && `, ${event.note}`}`
      return { who: event.worker, what, style: event.result === 'failed' ? 'bad' : 'good' }
    }
    case 'lost':
      return { who: 'events', what: `${event.count} were lost: this reader was too slow`, style: 'care' }
  }
}

function operationWords(event: OperationEvent): { readonly what: string; readonly style: Style } {
  switch (event.step) {
    case 'begin':
      return { what: 'begins', style: 'strong' }
    case 'slots':
      return { what: `slots to go through: ${event.count}`, style: 'quiet' }
    case 'drain':
      return { what: `waits for those that leave: ${event.count}`, style: 'quiet' }
    case 'done':
      return { what: `done in ${inSeconds(event.durationMs)}`, style: 'strong' }
    case 'failed':
      return { what: withReason('given up', event.reason), style: 'bad' }
  }
}

function withReason(what: string, reason: string): string {
  return reason === '' ? what : `${what}: ${reason.split('\n')[0]}`
}
