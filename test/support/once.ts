// A cache for results of the oracle. They depend on the case only, so that all builds and kinds of input can share
// them.

const known = new Map<string, unknown>();

/**
 * Returns the result of `compute`, which runs once per test file and `key`. The key must name everything that the
 * result depends on. The result is shared and must not be written to. It stays in memory until the file ends, so
 * `compute` should return a summary of large data.
 */
export function once<T>(key: string, compute: () => T): T {
  if (!known.has(key)) known.set(key, compute());
  return known.get(key) as T;
}
