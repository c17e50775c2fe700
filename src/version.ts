// The version of this package, inserted by the build (scripts/esbuild.mjs) from package.json. Reading package.json at
// run time would require knowing where the bundle is relative to it, in dist/ and in build/.

declare const __VERSION__: string

/** Version of the package, such as `0.1.0`. */
export const version: string = __VERSION__
