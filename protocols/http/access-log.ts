// A line of the access log for each answer, whoever gives it: a handler, the refusal of a head, a handshake.

import type { RequestHead } from './head.ts'

/** Describes one answer. Parts missing from a refused request are `-`. */
export interface AccessLogEntry {
  /** When the request arrived. */
  readonly at: Date
  /** The client, behind trusted proxies too. */
  readonly remoteIp: string
  /** As sent. */
  readonly method: string
  /** As sent: `/path?query`. */
  readonly target: string
  /** Such as `1.1`. */
  readonly version: string
  /** Status of the answer. */
  readonly status: number
  /** Length of the body as sent. */
  readonly bytes: number
  /** From the end of the request's head to the end of the answer. */
  readonly durationMs: number
  /** The request's header field; empty without one. */
  readonly referer: string
  /** The request's header field; empty without one. */
  readonly userAgent: string
}

/** Gets all but the time of arrival, which it computes. */
export type AccessLog = (entry: Omit<AccessLogEntry, 'at'>) => unknown

export function dating(log: (entry: AccessLogEntry) => unknown, wallClock: () => number): AccessLog {
  return (entry) => log({ at: new Date(wallClock() - entry.durationMs), ...entry })
}

/** What an entry says of the request. */
export function described(head: RequestHead, remoteIp: string) {
  const { method, target, minorVersion } = head
  const [referer, userAgent] = [head.header('referer') ?? '', head.header('user-agent') ?? '']
  return { remoteIp, method, target, version: `1.${minorVersion}`, referer, userAgent }
}
