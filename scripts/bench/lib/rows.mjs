// From runs to rows: medians, ratios within a round, what makes a row void. Pure functions, so that they can be tested;
// a run is what `measure` in echo-bench.mjs returns. Method: ../README.md.
import { median, round, spread, sum } from './bench.mjs'

const saturatedServer = 0.9 // of the wall time; below it the server was not fully busy
const saturatedLoad = 0.95
const contended = 0.05 // of the wall time waiting for the core: another process is using this machine

export const mapValues = (object, each) =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key, each(value, key)]))

/** The kernel samples user time at its tick, so its share is taken over all rounds and applied to the exact total. */
function perMessage(runs) {
  const user = sum(runs.map((run) => run.cpuSeconds.user))
  const ticked = user + sum(runs.map((run) => run.cpuSeconds.system))
  const total = median(runs.map((run) => run.totalUs))
  return { user: round(ticked > 0 ? (total * user) / ticked : 0), total: round(total) }
}

const medianOf = (runs, pick) => round(median(runs.map(pick)))

/** Others / millrace, within a round, so that a slower period of the machine affects both sides. */
export function compare(lists) {
  const { millrace, ...others } = lists
  const ratios = millrace ? mapValues(others, (list) => list.map((value, i) => value / millrace[i])) : {}
  return {
    ratio: mapValues(ratios, (list) => round(median(list))),
    ratioRange: mapValues(ratios, (list) => [round(Math.min(...list)), round(Math.max(...list))]),
  }
}

/**
 * @param {Record<string, object[]>} runs by server, one of each round
 * @returns the measurements, without the environment they were made in
 */
export function rowOf(runs) {
  const utilisation = mapValues(runs, (list) => ({
    server: medianOf(list, (run) => run.utilisation.server),
    waited: medianOf(list, (run) => run.utilisation.waited),
    load: medianOf(list, (run) => run.utilisation.load),
  }))
  const names = Object.keys(runs)
  const voidPeers = names.filter(
    (name) => utilisation[name].load >= saturatedLoad && utilisation[name].server < saturatedServer,
  )
  const totals = mapValues(runs, (list) => list.map((run) => run.totalUs))
  return {
    perMessageUs: mapValues(runs, perMessage),
    ...compare(totals),
    spread: mapValues(totals, (list) => round(spread(list), 2)),
    rate: mapValues(runs, (list) => medianOf(list, (run) => run.rate)),
    latencyUs: mapValues(runs, (list) => ({
      p50: medianOf(list, (run) => run.latencyUs.p50),
      p99: medianOf(list, (run) => run.latencyUs.p99),
    })),
    utilisation,
    saturated: names.every((name) => utilisation[name].server >= saturatedServer),
    ...(names.some((name) => utilisation[name].waited >= contended) ? { contended: true } : {}),
    ...(voidPeers.length > 0 ? { void: true, voidPeers } : {}),
    runs: runs[names[0]].length,
  }
}

/** Converts the row's CPU per message to CPU per MiB of bodies. */
export function perMiB({ perMessageUs }, bodyBytes) {
  if (bodyBytes === undefined) return {}
  return { perMiBUs: mapValues(perMessageUs, ({ total }) => round((total / bodyBytes) * 2 ** 20)) }
}

/** `64x16b`: connections, messages in flight on each, and the variant. Undefined if malformed. */
export function caseOf(text, bytes, variants = {}) {
  const [, connections, inFlight, variant = ''] = /^(\d+)x(\d+)([a-z][a-z0-9-]*)?$/.exec(text) ?? []
  const isKnown = variant === '' || Object.hasOwn(variants, variant)
  if (!(connections > 0 && inFlight > 0) || !isKnown) return undefined
  return { connections: Number(connections), inFlight: Number(inFlight), bytes, ...(variant === '' ? {} : { variant }) }
}

/**
 * For the native engine: its C++ memory for a connection that has nothing to send, `Slot` in native/src/engine.h. The
 * memory that the others keep is counted only in RSS.
 */
const SLOT_BYTES = 40

/**
 * Bytes per connection: medians over the runs of what each connection added, after one message on each. `counted` is
 * heap, external memory and the engine's own; `silent` is the same before the message.
 *
 * @param {Record<string, { about: { engine?: string }, empty: object, open: object, idle: object }[]>} runs by server
 */
export function idleRow(runs, { connections }) {
  const added = (when, pick) => (run) => (pick(run[when]) - pick(run.empty)) / connections
  const engineOf = ({ about }) => (about.engine === 'native' ? SLOT_BYTES : 0)
  const heap = added('idle', (sample) => sample.heapUsed)
  const external = added('idle', (sample) => sample.external)
  const rss = added('idle', (sample) => sample.rss)
  const unsaid = added('open', (sample) => sample.heapUsed + sample.external)
  const counted = (run) => heap(run) + external(run) + engineOf(run)
  const silent = (run) => unsaid(run) + engineOf(run)
  const each = { heap, external, engine: engineOf, counted, rss, silent }
  const countedOf = mapValues(runs, (list) => list.map(counted))
  return {
    perConnectionBytes: mapValues(runs, (list) => mapValues(each, (pick) => Math.round(median(list.map(pick))))),
    ...compare(countedOf),
    spread: mapValues(countedOf, (list) => round(spread(list), 2)),
    runs: Object.values(runs)[0].length,
  }
}
