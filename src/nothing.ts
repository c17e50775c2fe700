// What to call where nothing is to be done: the place where it stands says why.

export function nothing(): void {
  // The caller's to explain.
}
