// Subjects as in NATS: tokens separated by dots, `*` for any one token, `>` at the end for one or more. Patterns are
// kept in a tree by token, so a match costs by the length of the subject, not by the number of patterns. Source:
// https://docs.nats.io/nats-concepts/subjects

import { quoted, UsageError } from '../errors.ts'
import { isWellFormed } from './wire.ts'

const ANY = '*'
const REST = '>'
/** Longest subject, in characters, that a person could still read. */
const LONGEST_SUBJECT = 1024
/** How many results are cached; beyond it the cache starts over. */
export const MOST_KNOWN = 4096

/** Half a surrogate pair would be another subject at the other end. Throws UsageError. */
export function checkSubject(subject: unknown, mayBePattern: boolean): asserts subject is string {
  const tokens = typeof subject === 'string' ? subject.split('.') : ['']
  const isWell = tokens.every((token, at) => {
    if (token === ANY) return mayBePattern
    if (token === REST) return mayBePattern && at === tokens.length - 1
    return /^[^\s*>\p{Cc}]+$/u.test(token)
  })
  if (isWell && String(subject).length <= LONGEST_SUBJECT && isWellFormed(String(subject))) return
  const wanted = mayBePattern ? `tokens with dots between, '*' for one, '>' for the rest` : 'tokens with dots between'
  const given = typeof subject === 'string' ? JSON.stringify(subject) : quoted(subject) // what is wrong may be invisible
  throw new UsageError('ERR_BAD_SUBJECT', `bad subject ${given}: it must be ${wanted}`)
}

interface Node<T> {
  readonly next: Map<string, Node<T>>
  readonly values: Set<T>
  /** Values of patterns that end with `>` here. */
  readonly rest: Set<T>
}

export class SubjectTree<T> {
  readonly #root: Node<T> = newNode()
  readonly #known = new Map<string, readonly T[]>()

  add(pattern: string, value: T): void {
    this.#known.clear()
    this.#place(pattern).add(value)
  }

  delete(pattern: string, value: T): void {
    this.#known.clear()
    this.#remove(this.#root, pattern.split('.'), 0, value)
  }

  /** Returns the values whose pattern matches, in no particular order. The list is shared: do not change it. */
  match(subject: string): readonly T[] {
    const known = this.#known.get(subject)
    if (known !== undefined) return known
    const found: T[] = []
    collect(this.#root, subject.split('.'), 0, found)
    if (this.#known.size >= MOST_KNOWN) this.#known.clear()
    this.#known.set(subject, found)
    return found
  }

  #place(pattern: string): Set<T> {
    let node = this.#root
    for (const token of pattern.split('.')) {
      if (token === REST) return node.rest
      const next = node.next.get(token) ?? newNode<T>()
      node.next.set(token, next)
      node = next
    }
    return node.values
  }

  /** Whether the node is unused afterwards. */
  #remove(node: Node<T>, tokens: readonly string[], at: number, value: T): boolean {
    const token = tokens[at]
    if (token === undefined) node.values.delete(value)
    else if (token === REST) node.rest.delete(value)
    else {
      const next = node.next.get(token)
      if (next !== undefined && this.#remove(next, tokens, at + 1, value)) node.next.delete(token)
    }
    return node.next.size === 0 && node.values.size === 0 && node.rest.size === 0
  }
}

function newNode<T>(): Node<T> {
  return { next: new Map(), values: new Set(), rest: new Set() }
}

function collect<T>(node: Node<T>, tokens: readonly string[], at: number, found: T[]): void {
  const token = tokens[at]
  if (token === undefined) {
    for (const value of node.values) found.push(value)
    return
  }
  for (const value of node.rest) found.push(value)
  const same = node.next.get(token)
  const any = node.next.get(ANY)
  if (same !== undefined) collect(same, tokens, at + 1, found)
  if (any !== undefined) collect(any, tokens, at + 1, found)
}
