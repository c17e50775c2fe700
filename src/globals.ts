// What the build puts before every module of a bundle: the check of Node's version, and a binding.

import './node-version.ts'

// The binding of `Buffer` in the bundles: the global is a getter, which costs more than some of its uses (20 to 30 ns
// each time, of the 75 ns that Buffer.byteLength takes).
export { Buffer } from 'node:buffer'
