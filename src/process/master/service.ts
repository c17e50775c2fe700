// What the machine around the master wants of it: a service manager to be told (sd_notify(3)), process 1 to reap orphans.
// Both take the addon; without it they are left undone, and that is said once.

import { addon, type Sys } from '../../addon.ts'
import { codeOf, messageOf } from '../../errors.ts'
import { log } from '../../log.ts'
import { type GroupHealth, healthOf, type Seen } from '../status/readiness.ts'

/** How often one looks for orphans that no signal told of: several ends may come as one signal. */
const LOOK_EVERY_MS = 1000

/** First process of a container, or started by systemd: sd_notify(3), systemd.exec(5). */
export function isService(): boolean {
  const { SYSTEMD_EXEC_PID = '', NOTIFY_SOCKET = '' } = process.env
  const isOurs = SYSTEMD_EXEC_PID === String(process.pid) || SYSTEMD_EXEC_PID === String(process.ppid)
  return process.pid === 1 || NOTIFY_SOCKET !== '' || isOurs
}

/** `READY=1`, `RELOADING=1`, `STOPPING=1`: to who started this process as a service with Type=notify. */
export function tellService(...lines: readonly string[]): void {
  const { NOTIFY_SOCKET: socket } = process.env
  const { sys } = addon()
  if (socket === undefined || socket === '') return
  if (sys === null) return missing(`the service manager is not told when this server is ready: use Type=exec`)
  untold.push(lines.map((line) => `${line}\n`).join(''))
  if (untold.length > MOST_UNTOLD) untold.shift()
  if (!isUnknown) tell(sys, socket)
}

/** What a manager that is busy has not taken yet, in order. */
const untold: string[] = []
const MOST_UNTOLD = 64
/** The manager listens to its main process only (NotifyAccess=main), which is another master still. */
let isUnknown = false

/** What this master says is kept until the one before it has named it (MAINPID=): `speakUp`. */
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

/** A line for `systemctl status`, when it has changed. */
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

/** How often, and for how long each time. */
const EXTEND_EVERY_MS = 5000
const EXTEND_BY_MS = 15_000

/**
 * While the server starts, reloads or is upgraded, as long as `isBounded` says that it gives up by itself: `startTimeoutMs` may be
 * longer than the service manager's patience (TimeoutStartSec=, 90 s). Ends when what it returns is called.
 */
export function extendWhile(isBounded: () => boolean): () => void {
  if (!process.env.NOTIFY_SOCKET) return () => undefined
  const extend = () => isBounded() && tellService(extension(EXTEND_BY_MS))
  extend()
  const timer = setInterval(extend, EXTEND_EVERY_MS).unref()
  return () => clearInterval(timer)
}

/** What may take so long from now on. */
export function extension(ms: number): string {
  return `EXTEND_TIMEOUT_USEC=${Math.ceil(ms) * 1000}`
}

/**
 * WatchdogSec=: pings in time as long as the loop turns, which is what `/healthz` says. Not: as long as some worker serves.
 * What workers lack (a database, say) no restart of the server would bring; it would take away those that serve.
 * @param pid of the process that was asked for pings: this one, or the master before it
 */
export function feedWatchdog(pid = process.pid): void {
  const { WATCHDOG_USEC = '', WATCHDOG_PID = '' } = process.env
  const periodMs = Number(WATCHDOG_USEC) / 1000
  const isOurs = WATCHDOG_PID === '' || WATCHDOG_PID === String(pid)
  if (!(periodMs > 0) || !isOurs) return
  if (WATCHDOG_PID !== '') process.env.WATCHDOG_PID = String(process.pid) // the next master asks whether it was ours
  const ping = () => tellService('WATCHDOG=1')
  ping()
  setInterval(ping, Math.min(Math.max(periodMs / 3, 1), 60_000)).unref() // half of it is what sd_watchdog_enabled(3) asks for
}

/** CLOCK_MONOTONIC in microseconds, as Type=notify-reload wants it. */
export function monotonicUsec(): string {
  return `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`
}

/** As process 1 of a container: what other programs leave behind comes to us, and stays a zombie until it is taken. */
export function reapOrphans(ownPids: () => readonly number[]): void {
  const { sys } = addon()
  if (process.pid !== 1) return
  if (sys === null) return missing('what other programs leave behind stays here as zombies: use docker run --init')
  const reap = () => void sys.reap(ownPids())
  process.on('SIGCHLD', () => setImmediate(reap)) // after libuv has taken ours
  setInterval(reap, LOOK_EVERY_MS).unref()
}

const said = new Set<string>()

/** Says once what takes the addon. */
export function missing(what: string): void {
  if (said.has(what)) return
  said.add(what)
  log(`without the addon (${addon().why}) ${what}`)
}
