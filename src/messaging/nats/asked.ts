// Letters that have been written and await an answer: by its number, and the newest on each subject, as a list through
// the letters of a subject. NATS may refuse tens of thousands at a time, and names only the subject.

import type { Letter } from './letter.ts'

export class Asked {
  readonly #byNumber = new Map<number, Letter>()
  readonly #newest = new Map<string, Letter>()

  add(letter: Letter): void {
    const older = this.#newest.get(letter.subject)
    if (older !== undefined) {
      letter.older = older
      older.newer = letter
    }
    this.#newest.set(letter.subject, letter)
    this.#byNumber.set(letter.number, letter)
  }

  /** Removes it; undefined if it is not there any more. */
  take(number: number): Letter | undefined {
    const letter = this.#byNumber.get(number)
    if (letter === undefined) return undefined
    this.#byNumber.delete(number)
    const { older, newer, subject } = letter
    if (older !== null) older.newer = newer
    if (newer !== null) newer.older = older
    else if (older !== null) this.#newest.set(subject, older)
    else this.#newest.delete(subject)
    letter.older = letter.newer = null
    return letter
  }

  /** Removes the newest one on a subject. */
  takeNewest(subject: string): Letter | undefined {
    const letter = this.#newest.get(subject)
    return letter && this.take(letter.number)
  }

  /** Removes all, oldest first. */
  takeAll(): Letter[] {
    const all = [...this.#byNumber.values()]
    for (const letter of all) letter.older = letter.newer = null
    this.#byNumber.clear()
    this.#newest.clear()
    return all
  }
}
