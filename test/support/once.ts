// What an oracle says depends on the case alone. Computed once in a test file, it serves every build and kind of input.

const known = new Map<string, unknown>();

/**
 * What `compute` returns, computed the first time that a test file asks for `key`, which must name all that it depends on.
 * It is kept until the file ends and shared, so nobody may write to it. Of what is too large to keep, return a summary.
 */
export function once<T>(key: string, compute: () => T): T {
  if (!known.has(key)) known.set(key, compute());
  return known.get(key) as T;
}
