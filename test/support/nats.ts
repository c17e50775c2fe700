// A real NATS server for a test, and servers of ours that use it.

import { driven } from './driven.ts'
import type { Sandbox } from './server.ts'
import { until } from './until.ts'

export interface NatsServer {
  /** `nats://127.0.0.1:port` */
  readonly url: string
  readonly port: number
  /** The file of its configuration, which SIGHUP reads again. */
  readonly config: string
  signal(name: NodeJS.Signals): void
  /** Ends it like a crash. */
  kill(): Promise<void>
  /** Starts it again, at the same port. */
  restart(): Promise<void>
}

/** Starts one on a free port. `config` is the text of its configuration file. It ends with the sandbox. */
export async function startNats(box: Sandbox, config = '', name = 'nats.conf'): Promise<NatsServer> {
  const file = box.file(name, config)
  let running = box.spawn('nats-server', ['-a', '127.0.0.1', '-p', '-1', '-c', file])
  const [, port = ''] = await running.says(/client connections on 127\.0\.0\.1:(\d+)/)
  return {
    url: `nats://127.0.0.1:${port}`,
    port: Number(port),
    config: file,
    signal: (name) => void running.process.kill(name),
    kill: async () => void (await running.end('SIGKILL')),
    restart: async () => {
      running = box.spawn('nats-server', ['-a', '127.0.0.1', '-p', port, '-c', file])
      await running.says(/Server is ready/)
    },
  }
}

/** Runs `use` with a NATS server, which is gone afterwards. */
export async function withNats(box: Sandbox, use: (nats: NatsServer) => unknown, config = ''): Promise<void> {
  const nats = await startNats(box, config)
  try {
    await use(nats)
  } finally {
    await nats.kill()
  }
}

/**
 * A driven module (driven.ts) with a `cluster`, called `shop`, and a record of what it could not send.
 * @param options further options of the Cluster, as code
 */
export function inCluster(url: string, server: string, before: string, options = ''): string {
  return driven(`
    const cluster = state.cluster = new millrace.Cluster('shop', { nats: '${url}', server: '${server}', ${options} })
    state.failed = []
    state.drained = 0
    cluster.onSendFail = (error, message, to) => state.failed.push([error.code, error.mayHaveBeenHandled, message, to])
    cluster.onBufferDrain = () => state.drained++
    ${before}
  `)
}

/** Starts it, connected or not. Returns the driver's port. */
export async function startUnconnected(box: Sandbox, module: string): Promise<number> {
  const { groups } = await box.start(box.file('app.js', module))
  return groups.find(({ name }) => name === 'driver')?.port ?? 0
}

/** Starts it. Returns the driver's port, when all workers are connected. */
export async function startInCluster(box: Sandbox, module: string, workers: number): Promise<number> {
  const port = await startUnconnected(box, module)
  await until(() => (box.log().match(/connected to NATS/g) ?? []).length >= workers)
  return port
}
