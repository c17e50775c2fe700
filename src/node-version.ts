// Refuses a Node that is too old: npm only warns about `engines`, and what fails for the lack of something does not say
// so. The build puts this before everything else in each bundle (src/globals.ts).

/** `engines.node` of package.json, inserted by the build (scripts/esbuild.mjs). */
declare const __NODE__: string

const [major = 0, minor = 0] = numbersOf(__NODE__)
const [ours = 0, oursMinor = 0] = numbersOf(process.versions.node)

if (ours < major || (ours === major && oursMinor < minor)) {
  const refusal = new Error(`millrace needs Node ${major}.${minor} or later, this is ${process.versions.node}`)
  refusal.stack = String(refusal) // where it was noticed helps nobody
  throw refusal
}

/** Of `>=20.19.0`. */
function numbersOf(version: string): number[] {
  return version.replace(/^\D+/, '').split('.').map(Number)
}
