// What one master hands to the next at an upgrade, and what the two say to each other meanwhile, as plain JSON. They may be
// of different versions: what is here may get more, and nothing in it may get another meaning.
//
//   old                                    new
//   boot with the inheritance       ->
//                                   <-     alive                  every second from its start on
//                                   <-     wants                  all that can live beside the old ones serve; these
//   given                           ->                            groups must be left by theirs first
//                                   <-     able                   everything serves
//   (lock and control socket are the new one's now)
//   takeCharge                      ->
//                                   <-     peers                  where its processes are reached; again when that changes
//                                   <-     leads                  from here on there is no way back
//   retired                         ->                            for each slot: its singletons are free
//   left                            ->                            the old one's last worker is gone, and so is it
//
// `failed` instead of any of the new one's, and `abandon` of the old one's, until `takeCharge`, end the upgrade. An end of the
// old one without a word makes the new one the master as it is.

import type { Counters } from '../../counters.ts'
import type { PeerRow } from '../group.ts'
import type { Identity } from '../identity.ts'
import type { InheritedEntry } from '../master/sockets.ts'
import type { GroupKey } from '../messages.ts'

/** Rises when an earlier version could not read it. */
export const INHERITANCE_FORMAT = 1

export interface Inheritance {
  readonly format: number
  /** Of the old master. */
  readonly pid: number
  readonly runDir: string
  readonly sockets: readonly InheritedEntry[]
  readonly groups: readonly InheritedGroup[]
  /** In base64. */
  readonly ticketSecret: string
  /** In base64. Undefined of a version whose processes do not reach those of another master. */
  readonly meshSecret?: string
  /** The keeper of shared data. */
  readonly keeper: InheritedKeeper
  /** The counters that all workers share, as a descriptor; -1 without. */
  readonly memory: number
  /** Undefined of a version that does not tell. */
  readonly reloads?: ReloadCounts
}

export interface ReloadCounts {
  readonly succeeded: number
  readonly failed: number
  /** Unix time, s; 0 before there was one. */
  readonly lastAt: number
  readonly lastSucceeded: boolean
}

/** What has been counted until now. */
export interface Tally {
  /** Of the whole server; nobody is connected. */
  readonly totals: Counters
  /** What of it belongs to groups, in the order of the inheritance. Undefined of a version that does not tell. */
  readonly groups?: readonly GroupTally[]
}

export interface GroupTally {
  /** By the slots' ids. */
  readonly slots: readonly Counters[]
  /** How processes have ended, and why they were replaced, and how often. */
  readonly exits: Readonly<Record<string, number>>
  readonly replaced: Readonly<Record<string, number>>
}

export interface InheritedKeeper {
  /** Of the process; pid 0 when there is none. */
  readonly identity: Identity
  readonly secret: string
}

/** Sockets are places in `Inheritance.sockets`. */
export interface InheritedGroup {
  readonly key: GroupKey
  /** What `scale` and `stop` have made of it. */
  readonly declaredCount: number
  readonly scaledTo: number | null
  readonly isStopped: boolean
  /** In the order of the slots. */
  readonly sockets: readonly number[]
  /** By the address that its processes have asked for. */
  readonly inner: readonly (readonly [address: string, socket: number])[]
}

export type ToSuccessor =
  | { readonly type: 'given' }
  /** The service manager has been told of it. */
  | { readonly type: 'named' }
  | ({ readonly type: 'takeCharge' } & Tally)
  /** The group's place in the inheritance, and a slot of it. */
  | { readonly type: 'retired'; readonly group: number; readonly slot: number }
  | ({ readonly type: 'left' } & Tally)
  | { readonly type: 'abandon' }

export type FromSuccessor =
  | { readonly type: 'alive'; readonly pid: number }
  /** Places of groups in the inheritance. */
  | { readonly type: 'wants'; readonly groups: readonly number[] }
  | { readonly type: 'able' }
  | { readonly type: 'peers'; readonly rows: readonly PeerRow[] }
  | { readonly type: 'leads'; readonly version: string; readonly node: string }
  /** Its processes are to leave within their time to stop, or within this. */
  | { readonly type: 'hurry'; readonly timeoutMs?: number | null }
