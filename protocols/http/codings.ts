// Which of the available content codings a client prefers (RFC 9110 section 12.5.3).

/**
 * Returns the preferred one of `codings`, the first among equals; null if the client accepts none or prefers the bytes
 * unencoded.
 */
export function codingFor(acceptEncoding: string, codings: readonly string[]): string | null {
  const weights = weightsIn(acceptEncoding)
  let best: string | null = null
  let most = weights.get('identity') ?? 0
  for (const coding of codings) {
    const weight = weights.get(coding) ?? weights.get('*') ?? 0
    if (weight === 0 || (best === null ? weight < most : weight <= most)) continue
    best = coding
    most = weight
  }
  return best
}

/** Weights by lower-case name. An item with an invalid weight is left out. */
function weightsIn(field: string): Map<string, number> {
  const weights = new Map<string, number>()
  for (const item of field.toLowerCase().split(',', 20)) {
    const [, name = '', weight = '1'] =
      /^\s*(?:x-(?=gzip))?([^\s;]+)\s*(?:;\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?$/.exec(item) ?? []
    if (name !== '') weights.set(name, Number(weight))
  }
  return weights
}
