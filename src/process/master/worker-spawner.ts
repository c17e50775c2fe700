// Starts the process of a slot, passes on what it inherits, and connects its messages to their receivers. What becomes
// of it afterwards is the master's concern.

import { codeOf, messageOf, SystemError } from '../../errors.ts'
import { now } from '../../loop/clock.ts'
import type { BoundSocket } from '../../net/bound-socket.ts'
import { bindMeshSocket, isPassedOn } from '../../net/mesh-socket.ts'
import { CommandError, Exit } from '../exit-codes.ts'
import type { Declaration, WantedSocket } from '../group.ts'
import { InspectorPorts, inspects } from '../node-flags.ts'
import type { Output } from '../output/output.ts'
import { FIRST_SOCKET_FD, spawnChild } from '../spawn.ts'
import type { Events } from '../status/events.ts'
import { type Blueprint, type GroupState, socketOf } from './group-state.ts'
import type { Household } from './household.ts'
import type { KeeperHandle } from './keeper-handle.ts'
import type { Leaders } from './leaders.ts'
import type { Slot } from './slot.ts'
import type { Sockets } from './sockets.ts'
import { type WorkerExitInfo, WorkerHandle } from './worker-handle.ts'

/** Receives the events of the processes. */
export interface Parent {
  readonly sockets: Sockets
  readonly events: Events
  /** No more processes may be started. */
  readonly isEnding: boolean
  onReport(group: GroupState, slot: Slot, handle: WorkerHandle): void
  onFull(group: GroupState): void
  /** While the server stops: a process has nothing left to do, or something again. */
  onIdle(): void
  /** A process no longer serves, having left on its own, and is not gone yet. */
  onLeaving(): void
  onGone(group: GroupState, slot: Slot, handle: WorkerHandle, exit: WorkerExitInfo): void
}

export class WorkerSpawner {
  readonly #master: Parent
  readonly #household: Household
  readonly #leaders: Leaders
  readonly #ports = new InspectorPorts()

  constructor(master: Parent, household: Household, leaders: Leaders) {
    this.#master = master
    this.#household = household
    this.#leaders = leaders
  }

  /** Throws a CommandError if the server is stopping. */
  spawn(group: GroupState, slot: Slot, blueprint: Blueprint): WorkerHandle {
    const { key, declaration, tlsFiles } = blueprint
    const socket = socketOf(blueprint, slot.id)
    if (this.#master.isEnding) throw new CommandError(Exit.Failure, 'the server is being stopped')
    const { options, memory, programs, tickets, peers, runDir } = this.#household
    const { modules, argv, engine } = options
    const output = this.#household.output as Output
    const inspectorPort = inspects(declaration.execArgv) ? this.#ports.take(declaration.execArgv) : null
    const incarnation = ++slot.incarnation
    const fds = socket === null || socket.fd < 0 ? [] : [socket.fd]
    const mesh = bindMeshSocket(runDir)
    const meshFd = mesh.fd < 0 ? -1 : FIRST_SOCKET_FD + fds.push(mesh.fd) - 1
    const memoryFd = memory === null ? -1 : FIRST_SOCKET_FD + fds.push(memory.fd) - 1
    const child = spawnChild(
      {
        role: 'worker',
        modules,
        argv,
        credentials: declaration.credentials,
        isLogPiped: output.isLogPiped,
        engine,
        group: key,
        memoryFd,
        place: {
          id: slot.id,
          incarnation,
          sockets: socket === null ? [] : [{ fd: socket.fd < 0 ? -1 : FIRST_SOCKET_FD, endpoint: socket.endpoint }],
          tls: { ticketKeys: tickets.keysFor(key), files: tlsFiles },
          mesh: peers.placeFor(blueprint, meshFd, mesh.address),
        },
      },
      {
        stdio: output.stdio,
        fds,
        isDetached: true,
        execArgv: declaration.execArgv,
        inspectorPort,
        program: programs.ofApp,
      },
    )
    if (isPassedOn) mesh.close()
    const tail = output.attach(child, `${declaration.name}:${slot.id}`)
    // A process at a breakpoint is not late.
    const startTimeoutMs = inspectorPort === null ? declaration.startTimeoutMs : Number.POSITIVE_INFINITY
    const { stuckTimeoutMs } = declaration
    const meshAddress = mesh.address
    const handle = new WorkerHandle(child, { incarnation, startTimeoutMs, socket, tail, stuckTimeoutMs, meshAddress })
    this.#wire(handle, group, slot, declaration)
    handle.onGone = (exit) => {
      this.#leaders.forget(handle)
      if (inspectorPort !== null) this.#ports.release(inspectorPort)
      if (!isPassedOn) mesh.close()
      this.#master.onGone(group, slot, handle, exit)
    }
    return handle
  }

  /** Connects its messages to their receivers. */
  #wire(handle: WorkerHandle, group: GroupState, slot: Slot, declaration: Declaration): void {
    const { events } = this.#master
    const of = () => ({ group: declaration.name, worker: `${declaration.name}:${slot.id}`, pid: handle.pid })
    events.emit({ type: 'spawn', incarnation: handle.incarnation, ...of() })
    handle.onMove = (state) => {
      if (state === 'ready') events.emit({ type: 'ready', readyMs: Math.round(now() - handle.startedAt), ...of() })
      else if (state === 'retiring') events.emit({ type: 'retire', ...of() })
      else if (state === 'stopping') events.emit({ type: 'leave', windowMs: Math.round(handle.remainingMs), ...of() })
    }
    handle.onReport = () => this.#master.onReport(group, slot, handle)
    handle.onLeaving = () => this.#master.onLeaving()
    handle.onListen = (request, wanted) => void this.#giveSocket(group, slot, declaration, handle, request, wanted)
    handle.onFull = () => this.#master.onFull(group)
    handle.onIdle = () => this.#master.onIdle()
    handle.onReachKeeper = (request) => void this.#giveKeeper(handle, request)
    handle.onStand = (name, id) => this.#leaders.stand(handle, name, id)
    handle.onResign = (name, id) => this.#leaders.resign(handle, name, id)
  }

  /**
   * `listen()` of a process: every process of the group shares the socket, including those that come later. In place of
   * one that is missing a new one is made. Where that fails, so does a process that a command has asked for; one that
   * follows a crash or a limit takes what there is.
   */
  async #giveSocket(
    group: GroupState,
    slot: Slot,
    declaration: Declaration,
    handle: WorkerHandle,
    request: number,
    { address, nth }: WantedSocket,
  ): Promise<void> {
    try {
      if (this.#master.isEnding) throw new SystemError('ECANCELED', 'bind', address)
      const { sockets } = this.#master
      const key = nth === 0 ? address : `${address} ${nth}`
      const before = isAsked(slot) ? undefined : group.inner.get(key)
      const bind = () => sockets.share(address, declaration, group.sockets)
      const bindOrKeep = before === undefined ? bind : () => bind().catch(() => before)
      const isLost = (one: BoundSocket) => sockets.isMissing(one)
      const socket = await group.innerSocket(key, bindOrKeep, isLost)
      sockets.unkeep(socket)
      sockets.giveTo(declaration.credentials, socket) // earlier processes may have run as another user
      handle.giveSocket(request, socket)
    } catch (error) {
      const { syscall = '', address: at = address } = error as Partial<SystemError>
      handle.refuseSocket(request, { code: codeOf(error), syscall, address: at, message: messageOf(error) })
    }
  }

  async #giveKeeper(handle: WorkerHandle, request: number): Promise<void> {
    try {
      const keeper = this.#household.keeper as KeeperHandle
      handle.giveConnection(request, await keeper.connect())
    } catch (error) {
      handle.refuseSocket(request, { code: 'ERR_KEEPER_LOST', syscall: '', address: '', message: messageOf(error) })
    }
  }
}

/** Whether a command has the next process of this slot start: it is told when that cannot serve. */
function isAsked({ isHeld, current }: Slot): boolean {
  return isHeld && (current?.leavesFor ?? '') === ''
}
