// Suggests the word that was probably meant.

/** The entry of `known` closest to a typing error; '' if none is within `most` errors. */
export function likest(name: string, known: readonly string[], most = 2): string {
  const near = known.map((word) => ({ word, errors: distance(name, word) }))
  const [best] = near.sort((a, b) => a.errors - b.errors)
  return best !== undefined && best.errors <= most && best.errors < name.length - 1 ? best.word : ''
}

/** The number of characters to insert, delete, change, or swap with the next one. */
function distance(a: string, b: string): number {
  let before: number[] = []
  let row = Array.from({ length: b.length + 1 }, (_, at) => at)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2] : undefined
      next[j] = Math.min(
        (row[j] as number) + 1,
        (next[j - 1] as number) + 1,
        (row[j - 1] as number) + cost,
        (swapped ?? 9) + 1,
      )
    }
    before = row
    row = next
  }
  return row[b.length] as number
}
