// A visitor's data between requests, with Workerman's methods. Stored only when changed.

/** The session that `request.session()` resolves with, as `Session`, and what its `Sessions` needs to know besides. */
export class StoredSession {
  #id: string
  #data: Record<string, unknown>
  readonly #newId: () => string
  #isChanged = false
  /** The data as JSON, from before an object of it was given away, which may be changed in place. Null: none was. */
  #given: string | null = null
  #isNew: boolean
  /** The id it was loaded by, if it has another one by now: that must not work any more. */
  former: string | null = null

  /** @internal Made by Sessions. */
  constructor(id: string, data: Readonly<Record<string, unknown>>, isNew: boolean, newId: () => string) {
    this.#id = id
    this.#data = Object.assign(Object.create(null), data)
    this.#isNew = isNew
    this.#newId = newId
  }

  /** The id in the cookie, which only the visitor should know. */
  getId(): string {
    return this.#id
  }

  /** The value, or `fallback` if there is none or it is null. What is changed in an object is stored, too. */
  get(name: string, fallback?: unknown): unknown {
    const value = this.#data[name]
    if (typeof value === 'object') this.#noteGiven()
    return value ?? fallback
  }

  /** Sets a value, which may be anything JSON can represent. */
  set(name: string, value: unknown): void {
    this.#data[name] = value
    this.#isChanged = true
  }

  /** Removes the value, if there is one. */
  delete(name: string): void {
    if (!(name in this.#data)) return
    delete this.#data[name]
    this.#isChanged = true
  }

  /** Returns and deletes a value: for what is shown once. */
  pull(name: string, fallback?: unknown): unknown {
    const value = this.get(name, fallback)
    this.delete(name)
    return value
  }

  /** Same as `set`; for an object, `set` for each property. */
  put(name: string, value: unknown): void
  put(values: Readonly<Record<string, unknown>>): void
  put(first: string | Readonly<Record<string, unknown>>, value?: unknown): void {
    if (typeof first === 'string') return this.set(first, value)
    for (const [name, one] of Object.entries(first)) this.set(name, one)
  }

  /** `delete` for one name or several. */
  forget(names: string | readonly string[]): void {
    for (const name of typeof names === 'string' ? [names] : names) this.delete(name)
  }

  /** All values by name; without a prototype. */
  all(): Readonly<Record<string, unknown>> {
    this.#noteGiven()
    return this.#data
  }

  /** Deletes everything. */
  flush(): void {
    for (const name of Object.keys(this.#data)) this.delete(name)
  }

  /** Whether the value exists and is neither null nor undefined. */
  has(name: string): boolean {
    return (this.#data[name] ?? null) !== null
  }

  /** Whether there is a value, even null. */
  exists(name: string): boolean {
    return name in this.#data
  }

  /**
   * Gives the data a new id and returns it. Call it at every login; otherwise anyone who knew the old id is logged in
   * too.
   */
  regenerate(): string {
    if (!this.#isNew) this.former = this.#id
    this.#id = this.#newId()
    this.#isNew = this.#isChanged = true
    return this.#id
  }

  /** Whether a value or the id has changed since the session was loaded. Costs the JSON of one that was read. */
  get isChanged(): boolean {
    return this.#isChanged || (this.#given !== null && this.#given !== JSON.stringify(this.#data))
  }

  /** Whether the client does not know its id yet. */
  get isNew(): boolean {
    return this.#isNew
  }

  /** Whether it has no values: then nothing is stored, and no cookie is set. */
  get isEmpty(): boolean {
    return Object.keys(this.#data).length === 0
  }

  #noteGiven(): void {
    if (!this.#isChanged) this.#given ??= JSON.stringify(this.#data)
  }
}
