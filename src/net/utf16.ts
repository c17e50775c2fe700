// JavaScript text on its way to UTF-8.

/** Most UTF-8 bytes per UTF-16 unit. */
export const MOST_PER_UNIT = 3

/**
 * Whether the text ends in the first half of a surrogate pair: not a character by itself, it must not join with what
 * follows.
 */
export function endsInHalf(text: string): boolean {
  return (text.charCodeAt(text.length - 1) & 0xfc00) === 0xd800
}
