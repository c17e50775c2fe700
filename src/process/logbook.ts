// The log of a server: what its processes say, each line with its time and worker, as text or as JSON. Children write
// to pipes: records of ours (log.ts), and everything else that lands on stderr, `console.error` and V8's last words.

import type { Readable } from 'node:stream'
import { StringDecoder } from 'node:string_decoder'
import { formatText, type LogRecord, RECORD_SEPARATOR } from '../log.ts'
import type { LogFormat } from './messages.ts'
import type { OutputFile } from './output-file.ts'

/** Who said something: `worker` is empty for the master. */
export interface Source {
  readonly pid: number
  readonly worker: string
}

export interface Entry extends Source {
  readonly message: string
  readonly time?: Date
  /** It was printed there, not logged. */
  readonly stream?: 'stderr'
}

/** In characters. What is longer is cut into several lines: a child that never ends one must not fill our memory. */
const LONGEST_LINE = 65_536

export interface LogbookOptions {
  readonly format: LogFormat
  readonly file: OutputFile | null
  /** The terminal of a foreground server. */
  readonly echo: ((text: string) => void) | null
}

export class Logbook {
  readonly #format: LogFormat
  readonly #echo: ((text: string) => void) | null
  #file: OutputFile | null

  constructor({ format, file, echo }: LogbookOptions) {
    this.#format = format
    this.#file = file
    this.#echo = echo
  }

  write(entry: Entry): void {
    this.#put(this.#render(entry))
  }

  /** Reads what a child prints, to its end. */
  attach(stream: Readable, source: Source): void {
    const decoder = new StringDecoder('utf8') // a character may be cut by a chunk
    let rest = ''
    const take = (text: string, isLast: boolean) => {
      const lines = (rest + text).split('\n')
      rest = isLast ? '' : (lines.pop() ?? '')
      while (rest.length > LONGEST_LINE) {
        lines.push(rest.slice(0, LONGEST_LINE))
        rest = rest.slice(LONGEST_LINE)
      }
      if (isLast && lines.at(-1) === '') lines.pop()
      if (lines.length > 0) this.#put(lines.map((line) => this.#renderLine(line, source)).join(''))
    }
    stream.on('data', (bytes: Buffer) => take(decoder.write(bytes), false))
    stream.on('end', () => take(decoder.end(), true))
    stream.on('error', ignore)
  }

  /** Writes to another file from now on, and closes the one before. */
  useFile(file: OutputFile | null): void {
    this.#file?.close()
    this.#file = file
  }

  close(): void {
    this.useFile(null)
  }

  #renderLine(line: string, source: Source): string {
    const record = line.startsWith(RECORD_SEPARATOR) ? readRecord(line.slice(1)) : null
    if (record !== null) return this.#render({ ...source, message: record.message, time: new Date(record.time) })
    const message = line.endsWith('\r') ? line.slice(0, -1) : line
    return this.#render({ ...source, message, stream: 'stderr' })
  }

  #render({ pid, worker, message, time = new Date(), stream }: Entry): string {
    if (this.#format === 'text') {
      const lines = message.split('\n') // each with its worker: those of two processes may be mixed
      return lines.map((line) => formatText(time, pid, worker, line)).join('')
    }
    const named = worker === '' ? undefined : worker // JSON leaves it out
    return `${JSON.stringify({ time: time.toISOString(), pid, worker: named, stream, message })}\n`
  }

  #put(text: string): void {
    this.#echo?.(text)
    if (this.#file === null) return
    this.#file.write(text)
    if (this.#file.lostBytes > 0) this.#tellLoss(this.#file)
  }

  /** As soon as something can be written again. */
  #tellLoss(file: OutputFile): void {
    const lost = file.lostBytes
    file.lostBytes = 0
    file.write(this.#render({ pid: process.pid, worker: '', message: `${lost} bytes of log were lost` }))
    file.lostBytes = file.lostBytes > 0 ? lost : 0
  }
}

/** Null for what is none: user code may print such a byte too. */
function readRecord(text: string): LogRecord | null {
  try {
    const { time, message } = JSON.parse(text) as Partial<LogRecord>
    return typeof message === 'string' && !Number.isNaN(Date.parse(time ?? '')) ? { time: String(time), message } : null
  } catch {
    return null // a SyntaxError
  }
}

function ignore(): void {
  // The pipe of a process that is gone.
}
