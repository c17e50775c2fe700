// Keeps a process that leaves until everything it has sent and received is done.

export class Stay {
  readonly #isBusy: () => boolean
  /** While leaving: `#hold` keeps this process alive, `#release` ends that. */
  #hold: (() => () => void) | null = null
  #release: (() => void) | null = null

  constructor(isBusy: () => boolean) {
    this.#isBusy = isBusy
  }

  /** The process leaves from now on. */
  begin(hold: () => () => void): void {
    this.#hold = hold
    this.look()
  }

  /** Call when something has begun or ended that a leaving process waits for. */
  look(): void {
    if (this.#hold === null) return
    if (this.#isBusy()) this.#release ??= this.#hold()
    else {
      this.#release?.()
      this.#release = null
    }
  }
}
