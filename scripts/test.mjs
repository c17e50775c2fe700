// The test runner: every test file is a process of its own, in a process group of its own, under a time-out that kills.
// It closes gaps in uvu, which exits 0 and says nothing for a file without `.run()`; a failing `before` hook leaves
// exit code 0; skips are not failures; a hanging file hangs, and so does one whose failed test has left something
// running. So a file passes only if its summary is there, is not empty (except for what is left to the long suite) and
// says Passed = Total, the file ends by itself soon after, the exit code is 0, and no process that it started is left.
//
//   node scripts/test.mjs [options] [pattern...]     only the files whose path contains one of the patterns
//     --dir <directory>      run the compiled `*.test.js` below it, as they are: no build, no checks
//     --skips <n>            number of skipped tests expected: `announcedSkips` below
//     --jobs <n>             files run at once; default 5, since most wait for processes
//     --timeout-ms <n>       limit for one file; default 240,000, or TEST_TIMEOUT_MS
//     --linger-ms <n>        limit for a file to end after its summary; default 10,000
//     --limit-ms <n>         limit for the whole run; default 1,800,000
//     --retries <n>          how often a failed file is run again, alone, after all others; default 0, or TEST_RETRIES
//     --addon <path|none>    with this addon, or without one
//     --no-checks            leave out types, Biome and import rules; a pattern does so, too
//     --long                 the long suite: sets LONG=1, and runs only files that then do more (test/support/length.ts)
//
// Tests left to the long suite are counted, and reported at the end of a run without it. A file that passes at a later
// attempt counts as passed, but is named along with the output of its failure: the cause is a loaded machine or a race,
// and both are worth knowing. The last line of stdout is always `N passed, N failed, N skipped`. A failing check counts
// as one failure.

import { execFile, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs, promisify } from 'node:util'
import { buildTests } from './build-tests.mjs'
import { checkExports } from './export-rules.mjs'
import { root } from './files.mjs'
import { checkImports } from './import-rules.mjs'
import { endGroup, endProcess, processesWith } from './processes.mjs'

// Skips that the suite is meant to have, besides those that report what this machine lacks (test/support/where.ts). An
// unannounced skip is a test that silently went away.
const announcedSkips = 0
/** Imported by every file that has more to do in the long suite. */
const HAS_MORE = 'support/length.js'
/** How many files are named at the end of a large run. */
const SLOWEST = 8
// For processes that are about to end when their test file ends: a killed child, a worker that noticed its master's
// death.
const leftoverGraceMs = 2_000

const { values: options, positionals: patterns } = parseArgs({
  allowPositionals: true,
  options: {
    dir: { type: 'string' },
    skips: { type: 'string', default: String(announcedSkips) },
    jobs: { type: 'string', default: '5' },
    addon: { type: 'string' },
    'timeout-ms': { type: 'string', default: process.env.TEST_TIMEOUT_MS ?? '240000' },
    'linger-ms': { type: 'string', default: '10000' },
    'limit-ms': { type: 'string', default: '1800000' },
    retries: { type: 'string', default: process.env.TEST_RETRIES ?? '0' },
    'no-checks': { type: 'boolean', default: false },
    long: { type: 'boolean', default: false },
  },
})
const timeoutMs = Number(options['timeout-ms'])
const deadline = performance.now() + Number(options['limit-ms'])
const mark = randomUUID()

/**
 * @typedef {{ file: string, passed: number, failed: number, skipped: number, left?: number, problems: string[],
 *   lacking?: [string, number][], output: string, ms?: number, before?: Result }} Result `left`: tests of the long
 *   suite that were left out; `lacking`: what was missing, and how many tests were skipped because of it; `before`:
 *   the failed attempt, for a file that was run again
 */

/** @type {Map<number, import('node:child_process').ChildProcess>} process group -> leader */
const running = new Map()
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => giveUp(signal))

/** Failures outside the tests themselves: the build, a check. @type {string[]} */
const failures = []

await main()

async function main() {
  const isChecked = options.dir === undefined && patterns.length === 0 && !options['no-checks']
  const checking = isChecked ? runChecks() : Promise.resolve()
  const files = options.dir !== undefined || (await built()) ? testFiles() : []
  if (files.length === 0 && failures.length === 0)
    fail(patterns.length > 0 ? `no test file matches ${patterns.join(' ')}` : 'no test files')
  const results = await runAll(files)
  await checking
  finish(results)
}

/** Run alongside the tests; once a check has failed, no further tests are started. */
async function runChecks() {
  const checks = [
    tool('types', 'node_modules/typescript/bin/tsc', '--noEmit'),
    tool('biome', 'node_modules/@biomejs/biome/bin/biome', 'ci', '--colors=off'),
    rules(),
  ]
  await Promise.all(
    checks.map(async (check) => {
      const { name, ok, output } = await check
      if (!ok) fail(`check failed: ${name}\n${output}`)
    }),
  )
}

function fail(why) {
  failures.push(why)
  console.log(why)
}

async function tool(name, script, ...args) {
  // Our tools' own coverage is not wanted. If it were left out instead of undefined, Node would put the variable back.
  const env = { ...process.env, NODE_V8_COVERAGE: undefined }
  try {
    await promisify(execFile)(process.execPath, [join(root, script), ...args], { cwd: root, env, maxBuffer: 1 << 24 })
    return { name, ok: true, output: '' }
  } catch (error) {
    return { name, ok: false, output: `${error.stdout ?? ''}${error.stderr ?? ''}` || String(error) }
  }
}

function rules() {
  const violations = [...checkImports(root), ...checkExports(root)]
  return { name: 'import and export rules', ok: violations.length === 0, output: violations.join('\n') }
}

/** esbuild has already reported the errors. */
async function built() {
  try {
    await buildTests()
    return true
  } catch (error) {
    if (!Array.isArray(error.errors)) throw error
    fail('the tests do not build')
    return false
  }
}

function testFiles() {
  const directory = options.dir === undefined ? join(root, 'build/test') : resolve(options.dir)
  return readdirSync(directory, { recursive: true })
    .filter((file) => file.endsWith('.test.js'))
    .map((file) => relative(process.cwd(), join(directory, file)))
    .filter((file) => patterns.length === 0 || patterns.some((pattern) => file.includes(pattern)))
    .sort()
    .map((file) => ({ file, text: readFileSync(file, 'utf8') }))
    .filter(({ text }) => !options.long || text.includes(HAS_MORE))
    .map(({ file, text }) => ({ file, processes: processesIn(text) }))
    .sort((a, b) => b.processes - a.processes)
    .map(({ file }) => file)
}

/**
 * How much a file does with processes, which is what takes long. Such files go first, so that no run has to wait for
 * one at its end.
 */
function processesIn(text) {
  return text.match(/\b(?:box\.\w+|run|runner|cover|install)\(/g)?.length ?? 0
}

/** @param {string[]} files */
async function runAll(files) {
  const waiting = [...files.entries()]
  /** @type {Result[]} */
  const results = []
  const lane = async () => {
    for (let next = waiting.shift(); next && failures.length === 0; next = waiting.shift()) {
      const result = await runFile(next[1], `${mark}-${next[0]}.`)
      results.push(result)
      console.log(describe(result))
    }
  }
  await Promise.all(Array.from({ length: Math.max(1, Number(options.jobs)) }, lane))
  for (let attempt = 1; attempt <= Number(options.retries); attempt++) await runFailedAgain(results, attempt)
  return results
}

/** @param {Result[]} results */
async function runFailedAgain(results, attempt) {
  for (const [index, before] of results.entries()) {
    if (before.problems.length === 0) continue
    console.log(`again, alone: ${before.file}`)
    const result = { ...(await runFile(before.file, `${mark}-again${attempt}-${index}.`)), before }
    results[index] = result
    console.log(describe(result))
  }
}

/**
 * @param {string} file
 * @param {string} fileMark carried by all processes of this file in their environment; no mark is the prefix of another
 * @returns {Promise<Result>}
 */
async function runFile(file, fileMark) {
  const started = performance.now()
  const allowedMs = Math.min(timeoutMs, deadline - started)
  if (allowedMs <= 0) return judge(file, '', '', ['not started: the run is past its time limit'])
  const child = spawn(process.execPath, [file], {
    env: environment(fileMark),
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  running.set(child.pid, child)
  const problems = []
  let stdout = ''
  let output = ''
  const kill = (why) => {
    problems.push(`killed: still running ${why}`)
    endGroup(child.pid)
  }
  let lingering
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text
    output += text
    clearTimeout(lingering)
    const { 'linger-ms': ms } = options
    if (isSummed(stdout)) lingering = setTimeout(kill, Number(ms), `${ms} ms after its last test`)
  })
  child.stderr.setEncoding('utf8').on('data', (text) => {
    output += text
  })
  const timer = setTimeout(kill, allowedMs, `after ${Math.round(allowedMs)} ms`)
  const closed = new Promise((done) => child.once('close', done))
  const [code, signal] = await new Promise((done) => child.once('exit', (...status) => done(status)))
  clearTimeout(timer)
  clearTimeout(lingering)
  if (code !== 0 && problems.length === 0) problems.push(signal ? `died of ${signal}` : `exit code ${code}`)
  problems.push(...(await endLeftovers(fileMark)))
  running.delete(child.pid)
  // A grandchild without our environment can hold the pipes open forever.
  await Promise.race([closed, sleep(2_000, undefined, { ref: false })])
  return { ...judge(file, stdout, output, problems), ms: performance.now() - started }
}

/**
 * Without our own settings (a developer's shell must not change a test) and without colours (the summary is parsed).
 * Also without the shell's certificate authorities: Node 20 would read all of them at its start, 80 ms of CPU for each
 * of the thousands of processes. Code that talks to a registry gets them back (test/support/nodes.ts).
 */
function environment(fileMark) {
  const dropped = ['FORCE_COLOR', 'TEST_RETRIES', 'NODE_EXTRA_CA_CERTS']
  const ours = (name) => name.startsWith('MILLRACE_') || dropped.includes(name)
  const kept = Object.entries(process.env).filter(([name]) => !ours(name))
  const chosen = options.addon === undefined ? {} : { MILLRACE_ADDON: options.addon }
  const { NODE_EXTRA_CA_CERTS: TEST_EXTRA_CA_CERTS } = process.env
  if (options.long) Object.assign(chosen, { LONG: '1' })
  return { ...Object.fromEntries(kept), ...chosen, TEST_EXTRA_CA_CERTS, NO_COLOR: '1', TEST_RUN_MARK: fileMark }
}

/** Every process that a test started must be gone when its file has ended; any that remain are named and killed. */
async function endLeftovers(fileMark) {
  const graceEnds = performance.now() + leftoverGraceMs
  let left = processesWith('TEST_RUN_MARK', fileMark)
  while (left.length > 0 && performance.now() < graceEnds) {
    await sleep(20)
    left = processesWith('TEST_RUN_MARK', fileMark)
  }
  for (const { pid } of left) endProcess(pid)
  return left.map(({ pid, command }) => `left running: ${command} (pid ${pid})`)
}

/** @returns {Result} */
function judge(file, stdout, output, problems) {
  const total = summary(stdout, 'Total')
  const passed = summary(stdout, 'Passed')
  const skipped = summary(stdout, 'Skipped')
  if (total === undefined || passed === undefined || skipped === undefined) {
    const why = problems.length > 0 ? problems : ['no summary: does the file end in .run()?']
    return { file, passed: 0, failed: 1, skipped: 0, problems: why, output }
  }
  const found = [...problems]
  const left = summary(stdout, 'Left to the long suite') ?? 0
  const lacking = [...stdout.matchAll(/^ {2}Lacking (.+): (\d+)$/gm)].map(([, what, count]) => [what, Number(count)])
  if (total === 0 && left === 0 && lacking.length === 0) found.push('no tests ran')
  if (passed !== total) found.push(`${total - passed} of ${total} did not pass`)
  const failed = Math.max(total - passed, found.length > 0 ? 1 : 0)
  return {
    file,
    passed,
    failed,
    skipped,
    left,
    lacking,
    problems: found,
    output,
  }
}

/** Whether the output ends with a summary. */
function isSummed(stdout) {
  return /\n {2}Skipped: +\d+\n {2}Duration: .*\s*$/.test(stdout.slice(-200))
}

/** From the last such line: a test may print something that looks like one. */
function summary(stdout, name) {
  const lines = [...stdout.matchAll(new RegExp(`^  ${name}: +(\\d+)$`, 'gm'))]
  return lines.length === 0 ? undefined : Number(lines.at(-1)[1])
}

function describe({ file, passed, skipped, problems, output }) {
  const verdict = problems.length > 0 ? `FAIL ${file}: ${problems.join('; ')}` : `ok   ${file}: ${passed} passed`
  return `${output.trimEnd()}\n${verdict}${skipped > 0 ? `, ${skipped} skipped` : ''}\n`
}

/** @param {Result[]} results */
function finish(results) {
  const sum = (key) => results.reduce((total, result) => total + result[key], 0)
  const bad = results.filter((result) => result.problems.length > 0)
  if (bad.length > 0 && results.length > 1) console.log(`\n--- failures again ---\n\n${bad.map(describe).join('\n')}`)
  if (results.length > 0) for (const failure of failures) console.log(`\n${failure}`)
  const unsteady = results.filter(({ problems, before }) => problems.length === 0 && before !== undefined)
  if (unsteady.length > 0) {
    const first = unsteady.map(({ before }) => describe(before)).join('\n')
    console.log(`\n--- passed only when run again, alone ---\n\n${first}`)
  }
  if (results.length > SLOWEST) console.log(`\n${slowest(results)}`)
  const left = results.reduce((total, result) => total + (result.left ?? 0), 0)
  if (left > 0) console.log(`${left} more tests in the long suite: npm run test:long`)
  const skipped = sum('skipped')
  const explained = tellLacking(results)
  const skipsAreWrong = failures.length === 0 && results.length > 0 && !isAnnounced(skipped - explained)
  if (skipsAreWrong) console.log(`${skipped - explained} skipped, but ${options.skips} announced`)
  const failed = sum('failed') + failures.length + (skipsAreWrong ? 1 : 0)
  process.exitCode = failed > 0 ? 1 : 0
  console.log(`${sum('passed')} passed, ${failed} failed, ${skipped} skipped`)
}

/** Prints what the tests skipped here lacked. Returns their number. @param {Result[]} results */
function tellLacking(results) {
  const counts = new Map()
  for (const [what, count] of results.flatMap(({ lacking = [] }) => lacking))
    counts.set(what, (counts.get(what) ?? 0) + count)
  for (const [what, count] of counts) console.log(`${count} skipped, since this machine lacks ${what}`)
  return [...counts.values()].reduce((total, count) => total + count, 0)
}

/** @param {Result[]} results */
function slowest(results) {
  const all = results.toSorted((a, b) => (b.ms ?? 0) - (a.ms ?? 0)).slice(0, SLOWEST)
  const words = all.map(
    ({ file, ms = 0 }) => `${file.replace(/^build\/test\/|\.test\.js$/g, '')} ${Math.round(ms / 1000)} s`,
  )
  return `${Math.round(performance.now() / 1000)} s; slowest: ${words.join(', ')}`
}

/** A part of the suite may contain only some of the skips. */
function isAnnounced(skipped) {
  const announced = Number(options.skips)
  return patterns.length > 0 ? skipped <= announced : skipped === announced
}

function giveUp(signal) {
  for (const pid of running.keys()) endGroup(pid)
  for (const { pid } of processesWith('TEST_RUN_MARK', mark)) endProcess(pid)
  console.log(`interrupted by ${signal}\n0 passed, 1 failed, 0 skipped`)
  process.exit(1)
}
