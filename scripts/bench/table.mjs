// Makes the tables of README.md, between two comments, from the newest results. It measures nothing. Each row is taken
// from the newest result that contains it, even if that result lacks other rows; the results of --quick do not count.
//
//   npm run bench -- table [--print] [--quick] [--readme README.md] [--results results]
//     --print   prints to stdout and leaves README.md as it is
//     --quick   counts the results of --quick, too: to see that it works
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CannotRun, root, runBench } from './lib/bench.mjs'
import { begin, end, replaceBetween, tablesOf } from './lib/report.mjs'

await runBench('table', main)

function main() {
  const options = {
    print: { type: 'boolean', default: false },
    quick: { type: 'boolean', default: false },
    readme: { type: 'string', default: join(root, 'README.md') },
    results: { type: 'string', default: join(root, 'results') },
  }
  const { values } = parseArgs({ options })
  const results = readResults(values.results).map((result) => (values.quick ? { ...result, plan: {} } : result))
  const tables = tablesOf(results)
  if (tables === undefined) throw new CannotRun(`no result in ${values.results} that a table is made of`)
  if (values.print) return console.log(tables)
  const text = replaceBetween(readFileSync(values.readme, 'utf8'), tables)
  if (text === undefined) throw new CannotRun(`${values.readme} lacks '${begin}' and '${end}'`)
  writeFileSync(values.readme, text)
}

/** The results that record their time: older ones do not. */
function readResults(folder) {
  if (!existsSync(folder)) return []
  return readdirSync(folder)
    .filter((file) => file.endsWith('.json'))
    .map((file) => JSON.parse(readFileSync(join(folder, file), 'utf8')))
    .filter(({ bench, date, rows }) => bench && date && Array.isArray(rows))
}
