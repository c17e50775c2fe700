// What was published and is confirmed together. NATS answers in order and names the subject of what it refuses, so each
// refusal is the oldest letter's on that subject that has had none.

import type { Letter } from './letter.ts'

export class Batch {
  readonly letters: Letter[] = []
  /** The first so many letters, by subject, and how many of those have been refused or cannot be any more. */
  readonly #bySubject = new Map<string, { readonly letters: Letter[]; over: number }>()
  #sorted = 0

  /** Returns the letter that is refused, if it is one of these; each letter once. */
  refused(subject: string): Letter | undefined {
    for (; this.#sorted < this.letters.length; this.#sorted++) this.#sort(this.letters[this.#sorted] as Letter)
    const those = this.#bySubject.get(subject)
    if (those === undefined) return undefined
    while (those.over < those.letters.length) {
      const letter = those.letters[those.over++]
      if (letter?.isSettled === false) return letter
    }
    return undefined
  }

  #sort(letter: Letter): void {
    const those = this.#bySubject.get(letter.subject)
    if (those === undefined) this.#bySubject.set(letter.subject, { letters: [letter], over: 0 })
    else those.letters.push(letter)
  }
}
