// The log of a server: the output of its processes, each line with time and worker, as text or as JSON. Children write
// to pipes: records of ours (log.ts), and anything else on stderr, such as `console.error` and V8's last words.

import type { Readable } from 'node:stream'
import { StringDecoder } from 'node:string_decoder'
import { formatText, inPieces, LONGEST_MESSAGE, type LogRecord, linesOf, RECORD_SEPARATOR } from '../../log.ts'
import { printableJson } from '../../printable.ts'
import type { LogFormat } from '../messages.ts'
import { INSPECTOR_LINE } from '../node-flags.ts'

/** Names in the log of our processes other than master and workers. */
export const HELPERS = ['describe', 'callback', 'keeper'] as const

/** The name of a process in the log. */
export type SourceName = (typeof HELPERS)[number] | `${string}:${number}`

/** The process that a log line comes from. */
interface Source {
  readonly pid: number
  /** Empty for the master. */
  readonly worker: string
}

interface Entry extends Source {
  readonly message: string
  readonly time?: Date
  /** It was printed on stderr, not logged. */
  readonly stream?: 'stderr'
}

/** Where text goes: a file, a terminal. Never throws. */
export interface Sink {
  write(text: string): void
  /** Bytes lost since this was last reset to 0. */
  lostBytes: number
}

interface LogbookOptions {
  readonly format: LogFormat
  readonly file: Sink | null
  /** The terminal of a foreground server. */
  readonly echo: Sink | null
}

export class Logbook {
  /** Owned, and closed, by the caller. */
  file: Sink | null
  readonly #format: LogFormat
  readonly #echo: Sink | null

  constructor({ format, file, echo }: LogbookOptions) {
    this.#format = format
    this.file = file
    this.#echo = echo
  }

  write(entry: Entry): void {
    this.put(this.#render(entry))
  }

  /** Reads a child's output until it ends; `tail` keeps the last lines. */
  attach(stream: Readable, source: Source, tail = new Tail()): void {
    const decoder = new StringDecoder('utf8') // a chunk may split a character
    const reader = new LineReader()
    const take = (lines: string[]) => {
      if (lines.length > 0) this.put(lines.map((line) => this.#renderLine(line, source, tail)).join(''))
    }
    const end = () => take([...reader.read(decoder.end()), ...reader.end()])
    stream.on('data', (bytes: Buffer) => take(reader.read(decoder.write(bytes))))
    stream.on('end', end)
    stream.on('error', end) // the pipe of a process that has gone
  }

  #renderLine(line: string, source: Source, tail: Tail): string {
    const record = line.startsWith(RECORD_SEPARATOR) ? readRecord(line.slice(1)) : null
    tail.take(record?.message ?? line)
    if (record === null) tail.lookForInspector(line)
    if (record !== null) return this.#render({ ...source, message: record.message, time: new Date(record.time) })
    const text = line.endsWith('\r') ? line.slice(0, -1) : line
    return inPieces(text)
      .map((message) => this.#render({ ...source, message, stream: 'stderr' }))
      .join('')
  }

  #render({ pid, worker, message, time = new Date(), stream }: Entry): string {
    if (this.#format === 'text') {
      const lines = linesOf(message) // each with its worker: lines of two processes may be mixed
      return lines.map((line) => formatText(time, pid, worker, line)).join('')
    }
    const named = worker === '' ? undefined : worker // JSON omits it
    return `${printableJson({ time: time.toISOString(), pid, worker: named, stream, message })}\n`
  }

  /** Writes text that is formatted already. */
  put(text: string): void {
    for (const sink of [this.#echo, this.file]) {
      sink?.write(text)
      if (sink !== null && sink.lostBytes > 0) this.#tellLoss(sink)
    }
  }

  /** Reports lost bytes as soon as something can be written again. */
  #tellLoss(sink: Sink): void {
    const lost = sink.lostBytes
    sink.lostBytes = 0
    sink.write(this.#render({ pid: process.pid, worker: '', message: `${lost} bytes of log were lost` }))
    sink.lostBytes = sink.lostBytes > 0 ? lost : 0
  }
}

/** Limits of a worker's tail: enough to see what it did last. */
const TAIL_LINES = 10
const TAIL_CHARACTERS = 300

/** How a process begins to log the error that ends it. */
const UNCAUGHT = 'uncaught: '

/** The last lines that a process has logged or printed on stderr, bounded, for `status` after its end. */
export class Tail {
  readonly #lines: string[] = []
  /** What V8 said before it aborted; a long native stack follows it. */
  #fatal = ''
  /** What it has said of the error that ended it. */
  uncaught = ''
  /**
   * The address of its inspector, as the last such line says; empty for none. Anything that it prints may look like
   * one, even a peer's text.
   */
  inspectorUrl = ''
  #onInspector: ((url: string) => void) | null = null

  lookForInspector(line: string): void {
    const url = INSPECTOR_LINE.exec(line)?.[1]
    if (url === undefined || !URL.canParse(url)) return // a port above 65535
    this.inspectorUrl = url
    this.#onInspector?.(url)
  }

  /** Resolves with the address in the next such line; not with one that has been there before. */
  nextInspectorUrl(): Promise<string> {
    return new Promise((resolve) => {
      this.#onInspector = resolve
    })
  }

  get lines(): string[] {
    const lines = [...this.#lines]
    if (this.#fatal !== '' && !lines.includes(this.#fatal)) lines[0] = this.#fatal
    return lines
  }

  get isOutOfMemory(): boolean {
    return /out of memory|Allocation failed/.test(this.#fatal)
  }

  take(message: string): void {
    const lines = linesOf(message).filter((line) => line.trim() !== '')
    this.#lines.push(...lines.slice(-TAIL_LINES).map((line) => line.slice(0, TAIL_CHARACTERS)))
    if (message.startsWith(UNCAUGHT)) this.uncaught = message.slice(UNCAUGHT.length)
    if (message.startsWith('FATAL ERROR: ')) this.#fatal = this.#lines.at(-1) ?? ''
    this.#lines.splice(0, this.#lines.length - TAIL_LINES)
  }
}

/** A record also begins after a line without an end, and contains no such byte itself. */
const LINE_END = new RegExp(`\n|(?=${RECORD_SEPARATOR})`)
/** In characters, the longest that log.ts writes: each may be escaped, as `\u001b`. */
const LONGEST_RECORD = 6 * LONGEST_MESSAGE + 100

/**
 * Splits text that arrives in arbitrary pieces into lines. A line that does not end is cut, so that it cannot fill our
 * memory.
 */
class LineReader {
  #rest = ''
  #isRecord = false

  /** The lines that end in `text`. */
  read(text: string): string[] {
    if (text === '') return []
    const before = this.#rest
    const lines = text.split(LINE_END)
    if (before !== '' && text.startsWith(RECORD_SEPARATOR)) lines.unshift(before)
    else lines[0] = before + lines[0]
    this.#rest = lines.pop() ?? ''
    // Not checked again while it grows: that would copy it each time.
    if (before === '' || lines.length > 0) this.#isRecord = this.#rest.startsWith(RECORD_SEPARATOR)
    if (this.#rest.length > (this.#isRecord ? LONGEST_RECORD : LONGEST_MESSAGE)) {
      const pieces = inPieces(this.#rest)
      this.#rest = pieces.pop() ?? ''
      this.#isRecord = false
      lines.push(...pieces)
    }
    return lines
  }

  /** The last line, if nothing ended it. */
  end(): string[] {
    const last = this.#rest
    this.#rest = ''
    return last === '' ? [] : [last]
  }
}

/**
 * As log.ts writes it. Not every time that Date accepts: the last day of the year 275,760 does not exist in every time
 * zone.
 */
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

/** Null if it is not a record: user code may print such a byte too, and with it bytes from a peer. */
function readRecord(text: string): LogRecord | null {
  try {
    const { time, message } = JSON.parse(text) as Partial<LogRecord>
    const isTime = typeof time === 'string' && TIME.test(time) && !Number.isNaN(Date.parse(time))
    return isTime && typeof message === 'string' ? { time, message } : null
  } catch {
    return null // a SyntaxError, or the TypeError of `null`
  }
}
