// What one master hands to the next in an upgrade, and the messages between the two, as plain JSON. They may be of
// different versions: fields and messages may be added, but none may change its meaning.
//
//   old                                    new
//   boot with the inheritance       ->
//                                   <-     alive                  every second from its start on
//                                   <-     wants                  what can live beside the old processes serves; the
//   given                           ->                            old ones of these groups have to leave first
//                                   <-     able                   everything serves
//   (lock and control socket now belong to the new one)
//   takeCharge                      ->
//                                   <-     peers                  addresses of its processes; again when they change
//                                   <-     leads                  no way back from here on
//   led                             ->                            names that its processes lead; it chooses no leaders
//                                                                 any more, so all other names are the new one's
//   leavingPeers                    ->                            addresses of its processes; again when they change
//   retired                         ->                            for each slot: its singletons are free
//   left                            ->                            the old one's last worker has gone, and it ends
//
// `failed` in place of any message of the new one ends the upgrade, and so does `abandon` from the old one until
// `takeCharge`. If the old one ends without a message, the new one becomes the master as it is.

import type { Counters } from '../../counters.ts'
import type { PeerRow } from '../group.ts'
import type { Identity } from '../identity.ts'
import type { InheritedEntry } from '../master/sockets.ts'
import type { GroupKey } from '../messages.ts'

/** Increased when an earlier version could not read the inheritance. */
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
  /** In base64. Undefined if that version's processes do not reach those of another master. */
  readonly meshSecret?: string
  readonly keeper: InheritedKeeper
  /** Descriptor of the memory with the shared counters; -1 for none. */
  readonly memory: number
  /** Undefined if that version does not report them. */
  readonly reloads?: ReloadCounts
}

export interface ReloadCounts {
  readonly succeeded: number
  readonly failed: number
  /** Unix time, s; 0 if there was none. */
  readonly lastAt: number
  readonly lastSucceeded: boolean
}

/** All counters up to now. */
export interface Tally {
  /** Of the whole server; connections are 0. */
  readonly totals: Counters
  /** The groups' share of the totals, in the order of the inheritance. Undefined if that version does not report it. */
  readonly groups?: readonly GroupTally[]
}

export interface GroupTally {
  /** By slot id. */
  readonly slots: readonly Counters[]
  /** How often processes ended, by how, and how often they were replaced, by why. */
  readonly exits: Readonly<Record<string, number>>
  readonly replaced: Readonly<Record<string, number>>
}

export interface InheritedKeeper {
  /** Of the process; pid 0 if there is none. */
  readonly identity: Identity
  readonly secret: string
}

/** Sockets are indexes into `Inheritance.sockets`. */
export interface InheritedGroup {
  readonly key: GroupKey
  /** As set by `scale` and `stop`. */
  readonly declaredCount: number
  readonly scaledTo: number | null
  readonly isStopped: boolean
  /** How many slots it has. */
  readonly slots: number
  /** In the order of the slots. */
  readonly sockets: readonly number[]
  /** By the address that its processes requested. */
  readonly inner: readonly (readonly [address: string, socket: number])[]
}

export type ToSuccessor =
  | { readonly type: 'given' }
  /** The service manager has been notified of the new master. */
  | { readonly type: 'named' }
  | ({ readonly type: 'takeCharge' } & Tally)
  /** Sent again when one of them has no leader any more: each list is part of the one before. */
  | { readonly type: 'led'; readonly names: readonly string[] }
  /** The group's index in the inheritance, and one of its slots. */
  | { readonly type: 'retired'; readonly group: number; readonly slot: number }
  /** Addresses of the old master's processes, as long as there are some. */
  | { readonly type: 'leavingPeers'; readonly rows: readonly PeerRow[] }
  | ({ readonly type: 'left' } & Tally)
  | { readonly type: 'abandon' }

export type FromSuccessor =
  | { readonly type: 'alive'; readonly pid: number }
  /**
   * Indexes of groups in the inheritance, and how many processes each of them will have (undefined if that version does
   * not say).
   */
  | { readonly type: 'wants'; readonly groups: readonly number[]; readonly counts?: readonly number[] }
  | { readonly type: 'able' }
  | { readonly type: 'peers'; readonly rows: readonly PeerRow[] }
  | { readonly type: 'leads'; readonly version: string; readonly node: string }
  /** Its processes must leave within their time to stop, or within this time. */
  | { readonly type: 'hurry'; readonly timeoutMs?: number | null }
