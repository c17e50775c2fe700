// Text that may come from a peer or from user code, made harmless to a terminal: no control character passes, those
// above 0x7f included: U+009B begins a sequence as ESC [ does (ECMA-48 section 5.3). There are three forms for three
// readers. A log is evidence, so it shows which character was there and keeps its lines. A cell of a table stays on
// its line and as wide as it was. JSON loses nothing.

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not pass
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g

/** For a log: `\x1b` for ESC. Tabs and the ends of lines stay, as stacks have them. */
export function printableLog(text: string): string {
  return text.replace(CONTROL, (char) =>
    char === '\t' || char === '\n' ? char : `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
}

/**
 * JSON without characters that control a terminal (U+009B), that some readers take as line ends (U+0085, U+2028), or
 * that `printableLog` would write in its own way, which JSON does not know.
 */
export function printableJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(/[\u007f-\u009f\u2028\u2029]/g, (char) => {
    return `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
}

/** For a line or a cell: `?` for each, tabs and ends of lines too. */
export function printableCell(text: string): string {
  return text.replace(CONTROL, '?')
}
