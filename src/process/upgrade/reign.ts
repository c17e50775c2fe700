// Who is in charge, of the two masters of an upgrade, as each of them knows it: what one may do is read off here. A server
// that is started has one master, `alone`. At an upgrade:
//
//   the old one    alone --------------------------------------> replaced
//   the new one    beside --> charged --> leading --> alone
//                     \----------\--> abandoned                   the old one goes on, and has it all back

export type Reigning = 'alone' | 'beside' | 'charged' | 'leading' | 'abandoned' | 'replaced'

const EDGES: Record<Reigning, readonly Reigning[]> = {
  alone: ['replaced'],
  beside: ['charged', 'abandoned'],
  /** Lock, control socket and pid files name it; until it leads they are only lent. */
  charged: ['leading', 'abandoned'],
  /** There is no way back. The processes of the earlier one drain. */
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

  /** Nothing is left of the earlier one; told once and again. */
  settle(): void {
    if (this.#state === 'leading') this.move('alone')
  }

  /**
   * The server is its own: it tells the service manager, chooses among sockets, and its end is the server's, so it may remove
   * files and end the keeper.
   */
  get leads(): boolean {
    return this.#state === 'alone' || this.#state === 'leading'
  }

  /** No process of another master may lead anything. */
  get mayChooseLeaders(): boolean {
    return this.#state === 'alone'
  }

  /** What somebody asks of it may have to be done by the other one: that is not known yet. */
  get isOpen(): boolean {
    return this.#state === 'beside' || this.#state === 'charged'
  }

  /** What names it as the master is the earlier one's to take back. */
  get isLent(): boolean {
    return this.#state === 'charged' || this.#state === 'abandoned'
  }

  get isReplaced(): boolean {
    return this.#state === 'replaced'
  }
}
