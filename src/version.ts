// The version of this package, put in by the build (scripts/esbuild.mjs) from package.json. Reading package.json at
// run time would have to know where the bundle lies relative to it, in dist/ and in build/.

declare const __VERSION__: string

/** The version of the package: `0.1.0`. */
export const version: string = __VERSION__
