// What the words of a line mean to `logs` and `events`: groups, by name or address, and processes (`echo:2`).

import { noGroup } from '../exit-codes.ts'
import { isCalled } from '../messages.ts'
import type { GroupStatus } from '../status/status.ts'

type Known = readonly Pick<GroupStatus, 'name' | 'listen'>[]

/**
 * The words, and the other names of the groups that they mean: events and lines of the log name a group by its name,
 * and the step of a reload by what the person typed. Groups without a name have one in common: `none`.
 */
export function allNamesOf(words: readonly string[], groups: Known): string[] {
  const called = groups.filter((group) => words.some((word) => isCalled(group, word)))
  const names = called.flatMap(({ name, listen }) => [name, listen])
  return [...new Set([...words, ...names])].filter((name) => name !== '')
}

/** Throws a CommandError for a word that means none of the groups, and none of their processes. */
export function checkMeant(words: readonly string[], groups: Known): void {
  for (const word of words) {
    const ofProcess = word.replace(/:\d+$/, '')
    if (!groups.some((group) => isCalled(group, word) || group.name === ofProcess)) throw noGroup(word, groups)
  }
}
