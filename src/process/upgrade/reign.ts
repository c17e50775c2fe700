// Which of the two masters of an upgrade is in charge, as each of them sees it. What a master may do depends on this
// state. A server that was started normally has one master, `alone`. In an upgrade:
//
//   the old one    alone --------------------------------------> replaced
//   the new one    beside --> charged --> leading --> alone
//                     \----------\--> abandoned                   the old one goes on and takes everything back

type Reigning = 'alone' | 'beside' | 'charged' | 'leading' | 'abandoned' | 'replaced'

const EDGES: Record<Reigning, readonly Reigning[]> = {
  alone: ['replaced'],
  beside: ['charged', 'abandoned'],
  /** Lock, control socket and pid files name it; they are only lent until it leads. */
  charged: ['leading', 'abandoned'],
  /** No way back. The processes of the earlier one drain. */
  leading: ['alone'],
  abandoned: [],
  replaced: [],
}

export class Reign {
  #state: Reigning

  constructor(isSecond: boolean) {
    this.#state = isSecond ? 'beside' : 'alone'
  }

  move(to: Reigning): void {
    if (!EDGES[this.#state].includes(to)) throw new Error(`a master that is ${this.#state} does not become ${to}`)
    this.#state = to
  }

  /** Nothing is left of the earlier one. May be called more than once. */
  settle(): void {
    if (this.#state === 'leading') this.move('alone')
  }

  /**
   * This master is in charge: it notifies the service manager and chooses among sockets, and its end is the server's,
   * so it may remove files and end the keeper.
   */
  get leads(): boolean {
    return this.#state === 'alone' || this.#state === 'leading'
  }

  /** It is not known yet which of the two masters has to handle a request. */
  get isOpen(): boolean {
    return this.#state === 'beside' || this.#state === 'charged'
  }

  /** The earlier one may still take back what names this one the master. */
  get isLent(): boolean {
    return this.#state === 'charged' || this.#state === 'abandoned'
  }

  get isReplaced(): boolean {
    return this.#state === 'replaced'
  }
}
