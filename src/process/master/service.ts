// The master and its environment: notifies a service manager (sd_notify(3)) and, as process 1, reaps orphans. Both need
// the addon; without it they are skipped, which is logged once.

import { addon } from '../../addon.ts'
import type { Sys } from '../../addon-types.ts'
import { codeOf, messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { type GroupHealth, healthOf, type Seen } from '../status/readiness.ts'

/** How often to look for orphans whose end was not signalled: several ends may arrive as one signal. */
const LOOK_EVERY_MS = 1000

/** Whether this is the first process of a container, or started by systemd: sd_notify(3), systemd.exec(5). */
export function isService(): boolean {
  const { SYSTEMD_EXEC_PID = '', NOTIFY_SOCKET = '' } = process.env
  const isOurs = SYSTEMD_EXEC_PID === String(process.pid) || SYSTEMD_EXEC_PID === String(process.ppid)
  return process.pid === 1 || NOTIFY_SOCKET !== '' || isOurs
}

/** Sends `READY=1`, `RELOADING=1`, `STOPPING=1` and so on to a service manager that uses Type=notify. */
export function tellService(...lines: readonly string[]): void {
  const { NOTIFY_SOCKET: socket } = process.env
  const { sys } = addon()
  if (socket === undefined || socket === '') return
  if (sys === null) return missing(`the service manager is not told when this server is ready: use Type=exec`)
  untold.push(lines.map((line) => `${line}\n`).join(''))
  if (untold.length > MOST_UNTOLD) untold.shift()
  if (!isUnknown) tell(sys, socket)
}

/** Messages that a busy manager has not taken yet, in order. */
const untold: string[] = []
const MOST_UNTOLD = 64
/** The manager listens only to its main process (NotifyAccess=main), and that is still the earlier master. */
let isUnknown = false

/** Queues messages until the earlier master has named this one (MAINPID=) and `speakUp` is called. */
export function speakLater(): void {
  isUnknown = true
}

export function speakUp(): void {
  const { NOTIFY_SOCKET: socket = '' } = process.env
  const { sys } = addon()
  isUnknown = false
  if (sys !== null) tell(sys, socket)
}

const TELL_AGAIN_MS = 50
let again: NodeJS.Timeout | null = null

function tell(sys: Sys, socket: string): void {
  if (again !== null) return
  for (let [text] = untold; text !== undefined; [text] = untold) {
    try {
      sys.notify(socket, text)
    } catch (error) {
      if (codeOf(error) === 'EAGAIN') return tellAgain(sys, socket)
      log(`the service manager cannot be told: ${messageOf(error)}`) // ENOENT, ECONNREFUSED: it is gone
    }
    untold.shift()
  }
}

function tellAgain(sys: Sys, socket: string): void {
  again = setTimeout(() => {
    again = null
    tell(sys, socket)
  }, TELL_AGAIN_MS).unref()
}

/** Sends a line for `systemctl status`, if it has changed. */
export function tellStatus(seen: Seen): void {
  if (!process.env.NOTIFY_SOCKET) return
  const line = statusLine(seen)
  if (line === lastStatus) return
  lastStatus = line
  tellService(`STATUS=${line}`)
}

let lastStatus = ''

function statusLine(seen: Seen): string {
  const { state, groups } = seen
  const all = healthOf(seen).groups
  const sum = (of: (group: GroupHealth) => number) => all.reduce((total, group) => total + of(group), 0)
  const waiting = groups.flatMap(({ name, slots }) => {
    return slots.filter((slot) => slot.isWaiting).map((slot) => `${name}:${slot.id} ${slot.lastExit}`)
  })
  const troubles = waiting.slice(0, 3).map((one) => `, ${one}`)
  const ready = `${sum((group) => group.ready)} of ${sum((group) => group.count)} processes ready${troubles.join('')}`
  if (state !== 'stopping') return state === 'running' ? ready : `starting, ${ready}`
  const left = groups.flatMap(({ slots }) => slots.flatMap(({ processes }) => processes)).length
  return `stopping, ${left} ${left === 1 ? 'process' : 'processes'} left`
}

/** How often to extend, and by how much each time. */
const EXTEND_EVERY_MS = 5000
const EXTEND_BY_MS = 15_000

/**
 * Extends the service manager's patience (TimeoutStartSec=, 90 s) while the server starts, reloads or is upgraded,
 * since `startTimeoutMs` may be longer. Only while `isBounded` says that the operation gives up by itself. The returned
 * function ends it.
 */
export function extendWhile(isBounded: () => boolean): () => void {
  if (!process.env.NOTIFY_SOCKET) return () => undefined
  const extend = () => isBounded() && tellService(extension(EXTEND_BY_MS))
  extend()
  const timer = setInterval(extend, EXTEND_EVERY_MS).unref()
  return () => clearInterval(timer)
}

/** A request to allow this much time from now on. */
export function extension(ms: number): string {
  return `EXTEND_TIMEOUT_USEC=${Math.ceil(ms) * 1000}`
}

/**
 * Sends WatchdogSec= pings in time as long as the event loop turns, which is also what `/healthz` reports. It does not
 * depend on workers: a restart of the server would not provide what they lack (a database, for example) and would take
 * away those that serve.
 * @param pid the process that pings were asked of: this one, or the master before it
 */
export function feedWatchdog(pid = process.pid): void {
  const { WATCHDOG_USEC = '', WATCHDOG_PID = '' } = process.env
  const periodMs = Number(WATCHDOG_USEC) / 1000
  const isOurs = WATCHDOG_PID === '' || WATCHDOG_PID === String(pid)
  if (!(periodMs > 0) || !isOurs) return
  if (WATCHDOG_PID !== '') process.env.WATCHDOG_PID = String(process.pid) // the next master checks whether it was ours
  const ping = () => tellService('WATCHDOG=1')
  ping()
  setInterval(ping, Math.min(Math.max(periodMs / 3, 1), 60_000)).unref() // sd_watchdog_enabled(3) recommends half
}

/** CLOCK_MONOTONIC in microseconds, for Type=notify-reload. */
export function monotonicUsec(): string {
  return `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`
}

/** As process 1 of a container we inherit orphans of other programs; they stay zombies until we reap them. */
export function reapOrphans(ownPids: () => readonly number[]): void {
  const { sys } = addon()
  if (process.pid !== 1) return
  if (sys === null) return missing('what other programs leave behind stays here as zombies: use docker run --init')
  const reap = () => void sys.reap(ownPids())
  process.on('SIGCHLD', () => setImmediate(reap)) // after libuv has reaped ours
  setInterval(reap, LOOK_EVERY_MS).unref()
}

const said = new Set<string>()

/** Logs once what does not work without the addon. */
export function missing(what: string): void {
  if (said.has(what)) return
  said.add(what)
  log(`without the addon (${addon().why}) ${what}`)
}
