// Colours on terminals. Text is laid out first and coloured afterwards, so that widths stay right.

export type Style = 'good' | 'bad' | 'care' | 'quiet' | 'strong'

const CODES: Record<Style, readonly [number, number]> = {
  good: [32, 39],
  bad: [31, 39],
  care: [33, 39],
  quiet: [2, 22],
  strong: [1, 22],
}

export type Paint = (style: Style, text: string) => string

export const plain: Paint = (_style, text) => text

/** For text that goes to `stream`. */
export function paintFor(stream: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): Paint {
  if (!hasColours(stream, env)) return plain
  return (style, text) => `\x1b[${CODES[style][0]}m${text}\x1b[${CODES[style][1]}m`
}

/** Whether `stream` is a terminal that takes escape codes. */
export function canMoveCursor({ isTTY }: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): boolean {
  return isTTY === true && env.TERM !== 'dumb'
}

/** FORCE_COLOR, then NO_COLOR (no-color.org), then the kind of stream, as in Node. */
function hasColours(stream: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv): boolean {
  const { FORCE_COLOR, NO_COLOR = '' } = env
  if (FORCE_COLOR !== undefined) return FORCE_COLOR !== '0' && FORCE_COLOR !== 'false'
  return NO_COLOR === '' && canMoveCursor(stream, env)
}
