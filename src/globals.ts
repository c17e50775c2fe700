// What `Buffer` means in the bundles: the global one is a getter, which costs more than some of what it is used for (20 to
// 30 ns each time, of the 75 that Buffer.byteLength takes).
export { Buffer } from 'node:buffer'
