// Which files are the code of a program: a change there is a reason to reload.

/** What it may import. Not data: an app that writes JSON into its folder would be reloaded by itself. */
const CODE = /\.(?:[cm]?[jt]s|[jt]sx|node|wasm)$|^package\.json$/

/** Of the name of a file. */
export function isCode(name: string): boolean {
  return CODE.test(name)
}

/** Of the name of a folder or file: not the program's own. */
export function isSkipped(name: string): boolean {
  return name === 'node_modules' || name.startsWith('.')
}
