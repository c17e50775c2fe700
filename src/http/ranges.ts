// The Range header field (RFC 9110 section 14): the bytes a client asks for, ordered and bounded.

/** Both inclusive. */
export interface Range {
  readonly first: number
  readonly last: number
}

export type Ranges = readonly Range[]

/** More than a PDF viewer asks for; each range costs a head of its own. */
const MAX_RANGES = 16
/** Limit including empty list elements. */
const MAX_ELEMENTS = 64

/**
 * Null: send the whole (no ranges, other units, bad syntax, too many; all of an empty file, of which a 206 cannot say
 * what it is).
 */
export function rangesOf(field: string | undefined, size: number): Ranges | 'unsatisfiable' | null {
  const list = /^bytes=(.*)$/i.exec(field?.trim() ?? '')?.[1]
  if (list === undefined) return null
  const specs = list
    .split(',', MAX_ELEMENTS)
    .map((spec) => spec.trim())
    .filter((spec) => spec !== '') // empty elements have no meaning in a list (RFC 9110 section 5.6.1.2)
  if (specs.length === 0 || specs.length > MAX_RANGES) return null
  const ranges: Range[] = []
  for (const spec of specs) {
    const range = rangeOf(spec, size)
    if (range === null || (size === 0 && range.first === 0)) return null
    if (range.first <= range.last) ranges.push(range)
  }
  return ranges.length === 0 ? 'unsatisfiable' : coalesced(ranges)
}

/** Null for bad syntax; `first` beyond `last` for a range the file does not have. */
function rangeOf(spec: string, size: number): Range | null {
  const [, from, to] = /^(\d*)-(\d*)$/.exec(spec) ?? []
  if (from === undefined || to === undefined || (from === '' && to === '')) return null
  if (from === '') return { first: Math.max(0, size - Number(to)), last: Number(to) === 0 ? -1 : size - 1 }
  if (to !== '' && Number(to) < Number(from)) return null
  return { first: Number(from), last: to === '' ? size - 1 : Math.min(Number(to), size - 1) }
}

/** Joins ranges that touch or overlap: asking for a byte a thousand times sends it once (CVE-2011-3192). */
function coalesced(ranges: Range[]): Ranges {
  const sorted = [...ranges].sort((a, b) => a.first - b.first)
  const merged: Range[] = []
  for (const range of sorted) {
    const before = merged.at(-1)
    if (before === undefined || range.first > before.last + 1) merged.push(range)
    else merged[merged.length - 1] = { first: before.first, last: Math.max(before.last, range.last) }
  }
  return merged.length === ranges.length ? ranges : merged
}

/** Such as `bytes 0-99/1000`. */
export function contentRange({ first, last }: Range, size: number): string {
  return `bytes ${first}-${last}/${size}`
}
