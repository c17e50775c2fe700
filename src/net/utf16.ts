// Text as JavaScript has it, on its way to UTF-8.

/** Of one UTF-16 unit UTF-8 has at most so many bytes. */
export const MOST_PER_UNIT = 3

/** The first half of a surrogate pair ends it: no character by itself, it must not become one with what comes next. */
export function endsInHalf(text: string): boolean {
  return (text.charCodeAt(text.length - 1) & 0xfc00) === 0xd800
}
