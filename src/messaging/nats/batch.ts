// What was published and is confirmed together. NATS answers in order and names the subject of what it refuses, so each
// refusal is the oldest letter's on that subject that has had none.

import type { Letter } from './post.ts'

export class Batch {
  readonly letters: Letter[] = []
  /** Of the first so many letters, those that may still be refused, by subject. */
  readonly #bySubject = new Map<string, Letter[]>()
  #sorted = 0

  /** Returns the letter that is refused, if it is one of these; each letter once. */
  refused(subject: string): Letter | undefined {
    for (; this.#sorted < this.letters.length; this.#sorted++) this.#sort(this.letters[this.#sorted] as Letter)
    const those = this.#bySubject.get(subject) ?? []
    let letter = those.shift()
    while (letter?.isSettled) letter = those.shift()
    return letter
  }

  #sort(letter: Letter): void {
    const those = this.#bySubject.get(letter.subject)
    if (those === undefined) this.#bySubject.set(letter.subject, [letter])
    else those.push(letter)
  }
}
