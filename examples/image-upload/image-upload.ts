// Images are uploaded to one group of processes and scaled down by another, and every open page shows them as they
// become ready. Kill any process at any time (`kill -9`): no image is lost.
//
//   npm install sharp @fastify/busboy
//   node dist/start.js start dist/examples/image-upload/image-upload.js        then open http://127.0.0.1:8888/
//
// The images and a description of each are on disk; what has become of them is in a shared map, which all workers see.
// One process is the leader: it gives each thumbnail to the least busy worker, and gives it out again if that worker is
// lost. If the leader is lost, the next one looks through all images; and so does the leader if the map is lost, with
// the process that keeps it.

import { mkdirSync } from 'node:fs'
import { access, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { broadcast, http, Response, Shared, staticFiles, Timer, Worker, websocket } from 'millrace'

const SIZES = [160, 320, 640] as const
const MAX_IMAGE_BYTES = 32 * 1_048_576

/** What its description says. */
interface Upload {
  readonly name: string
  readonly time: number
}

/** An image as pages receive it. */
interface Image extends Upload {
  /** By width: which worker made it, and how long that took. */
  readonly thumbnails: Readonly<Record<number, Made>>
  /** Why there are no thumbnails. */
  readonly error?: string
}

interface Made {
  readonly worker: number
  readonly ms: number
}

const folder = process.env.IMAGES_DIR ?? join(tmpdir(), 'millrace-images')
const original = (id: string) => join(folder, 'originals', id)
const description = (id: string) => join(folder, 'descriptions', id)
const thumbnail = (id: string, width: number) => join(folder, 'thumbnails', `${id}-${width}.webp`)

/** By image id. */
const images = Shared.map<Image>('images')

// The workers that make thumbnails, one at a time each.

const makers = new Worker({ name: 'thumbnails', count: 3, serial: true })

makers.onWorkerStart = prepareFolders

makers.onWorkerMessage = async (_from, message): Promise<Made> => {
  const { id, width } = message as { id: string; width: number }
  const began = performance.now()
  const { default: sharp } = await import('sharp')
  const file = thumbnail(id, width)
  const isMade = await access(file).then(
    () => true,
    () => false,
  )
  if (!isMade) {
    const unfinished = `${file}.${process.pid}` // a killed process leaves no partial thumbnail
    await sharp(original(id)).rotate().resize({ width }).webp({ quality: 80 }).toFile(unfinished)
    await rename(unfinished, file)
  }
  return { worker: makers.id, ms: Math.round(performance.now() - began) }
}

// The site: a page, uploads, files, and a WebSocket that announces changes.

const protocol = http({ uploads: { maxFiles: 1, maxFileBytes: MAX_IMAGE_BYTES }, websocket: websocket() })
const site = new Worker('http://127.0.0.1:8888', {
  name: 'site',
  count: 2,
  protocol,
  maxPackageSize: 2 * MAX_IMAGE_BYTES,
})
const files = staticFiles(folder, { maxAge: 3600, immutable: true })

site.onWorkerStart = () => {
  prepareFolders()
  void tellPages()
  Worker.onLeader('thumbnails', (signal) => lead(signal))
}

site.onWebSocketConnected = async (connection) => {
  for (const id of await images.keys()) connection.send(await line(id))
}

site.onMessage = async (connection, request) => {
  if (typeof request === 'string' || request instanceof Uint8Array) return // from a WebSocket: pages only listen
  if (request.path === '/') return connection.send(new Response(200, HTML, await page()))
  if (request.path === '/images' && request.method === 'POST') return connection.send(await take(request))
  if (request.path.startsWith('/thumbnails/')) {
    const file = await files(request)
    if (file !== null) return connection.send(file)
  }
  connection.send(new Response(404, { 'Content-Type': 'text/plain' }, 'not here\n'))
}

const HTML = { 'Content-Type': 'text/html; charset=utf-8' }

async function take(
  request: Parameters<typeof files>[0] & { file(name: string): unknown },
): Promise<Response | object> {
  const file = request.file('image') as { name: string; size: number; move(to: string): Promise<void> } | undefined
  if (file === undefined)
    return new Response(400, { 'Content-Type': 'text/plain' }, "send a form with a file 'image'\n")
  const number = await Shared.counter('images').addAndGet()
  const id = `${Date.now().toString(36)}-${number}`
  await file.move(original(id))
  const unfinished = join(folder, id)
  await writeFile(unfinished, JSON.stringify({ name: file.name, time: Date.now() } satisfies Upload))
  await rename(unfinished, description(id)) // from here on it cannot be lost
  await find(id)
  return { id }
}

/** What is known of an image. If the map has lost it, or never had it, that begins anew with its description. */
async function find(id: string): Promise<Image> {
  for (;;) {
    const image = await images.get(id)
    if (image !== undefined) return image
    const upload = JSON.parse(await readFile(description(id), 'utf8')) as Upload
    await images.add(id, { ...upload, thumbnails: {} })
  }
}

async function tellPages(): Promise<void> {
  for await (const change of images.watch()) {
    const sockets = [...site.connections.values()].filter(({ protocol }) => protocol.name === 'websocket')
    if (change.type === 'set')
      broadcast(sockets, JSON.stringify({ id: change.key, ...change.value }), { slow: 'close' })
    if (change.type === 'lost') for (const socket of sockets) socket.close() // pages reconnect and receive everything
  }
}

async function line(id: string): Promise<string> {
  return JSON.stringify({ id, ...(await find(id)) })
}

// The leader.

async function lead(signal: AbortSignal): Promise<void> {
  const underway = new Map<string, Promise<void>>()
  const begin = (id: string) => {
    if (underway.has(id)) return
    const done = make(id, signal)
      .catch((error) => Worker.log(`${id}: ${error.message}`)) // the map is lost: what follows begins it again
      .finally(() => underway.delete(id))
    underway.set(id, done)
  }
  const beginAll = async () => {
    for (const id of await readdir(join(folder, 'descriptions'))) begin(id)
  }
  const changes = images.watch({ signal }) // before the others are read, so that no change is missed
  await beginAll()
  for await (const change of changes) {
    if (change.type === 'set') begin(change.key)
    if (change.type === 'lost') await beginAll()
  }
  await Promise.all(underway.values())
}

/** Until nothing is left to do: what has been noted may be lost meanwhile. */
async function make(id: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && isUnfinished(await find(id))) {
    try {
      await Promise.all(SIZES.map((width) => makeOne(id, width, signal)))
    } catch (error) {
      if (signal.aborted) return // the next leader continues
      const { message } = error as Error
      await change(id, (image) => ({ ...image, error: message })) // not an image, for example
    }
  }
}

function isUnfinished({ thumbnails, error }: Image): boolean {
  return error === undefined && SIZES.some((width) => thumbnails[width] === undefined)
}

async function makeOne(id: string, width: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    try {
      const made = (await makers.any().request({ id, width }, { signal, timeoutMs: 60_000 })) as Made
      return await change(id, (image) => ({ ...image, thumbnails: { ...image.thumbnails, [width]: made } }))
    } catch (error) {
      if ((error as Error).name !== 'PeerError') throw error
      Worker.log(`${id}, ${width} px: ${(error as Error).message}; another worker gets it`)
      await Timer.sleep(0.1)
    }
  }
}

/** Several thumbnails of one image may be finished at once. */
async function change(id: string, to: (image: Image) => Image): Promise<void> {
  for (;;) {
    const image = await find(id)
    if (await images.compareAndSet(id, image, to(image))) return
  }
}

function prepareFolders(): void {
  for (const name of ['originals', 'descriptions', 'thumbnails']) mkdirSync(join(folder, name), { recursive: true })
}

function page(): Promise<string> {
  return readFile(new URL('page.html', import.meta.url), 'utf8')
}

Worker.runAll()
