// How long a test that could go on for ever does: `npm test` is run all the time and must be quick; `LONG=1` (npm run test:long,
// which .ci/run runs, and the sanitizers) is for what comes up once in a million.

/** `brief` in `npm test`, `long` with `LONG=1`. */
export function atLength(brief: number, long: number): number {
  return process.env.LONG === '1' ? long : brief
}
