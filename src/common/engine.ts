// Tests of what this engine can run. They ask the engine itself, because its version does not tell flags, forks and
// embedders apart.

/** The bytes of (module (func (result v128) i32.const 0 i8x16.splat)), which is valid only with SIMD. */
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

/**
 * The bytes of (module (func (param v128) (result v128) local.get 0 local.get 0 local.get 0 f32x4.relaxed_madd)), which
 * is valid only with relaxed SIMD.
 */
const RELAXED_SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0, 32, 0, 32, 0, 32, 0, 253, 133,
  2, 11,
]);

/** Returns whether the engine has 128-bit SIMD. V8's flag --jitless and lockdown modes remove WebAssembly as a whole. */
export const simd = (): boolean => typeof WebAssembly === "object" && WebAssembly.validate(SIMD_PROBE);

/** Returns whether the engine has relaxed SIMD, which includes fused multiply-add. */
export const relaxedSimd = (): boolean => WebAssembly.validate(RELAXED_SIMD_PROBE);

/** Returns whether threads may share memory. A page may do so only if it is cross-origin isolated. */
export const sharedMemory = (): boolean =>
  typeof SharedArrayBuffer === "function" &&
  (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false;

/** Returns whether Node's own modules are available, as in Node, Deno and Bun. */
export const node = (): boolean =>
  !!(globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node;

/** Returns whether this code runs in an AudioWorklet. */
export const audioWorklet = (): boolean => "registerProcessor" in globalThis;

/** Resolves to the number of processors that the engine reports, or to 1 if it reports none. */
export async function processors(): Promise<number> {
  const { navigator } = globalThis as { navigator?: { hardwareConcurrency?: number } };
  if (navigator?.hardwareConcurrency) return navigator.hardwareConcurrency;
  if (!node()) return 1;
  return (await nodeModule<{ availableParallelism(): number }>("os")).availableParallelism();
}

/**
 * Returns one of Node's own modules. Scripts in node:vm, such as tests of Jest, cannot import, and Node 20.15 and older
 * cannot do anything else. The comments and the computed name keep bundlers from resolving it.
 */
export const nodeModule = async <T>(name: string): Promise<T> =>
  (globalThis as { process?: { getBuiltinModule?(name: string): T | undefined } }).process?.getBuiltinModule?.(name) ??
  import(/* @vite-ignore */ /* webpackIgnore: true */ `node:${name}`);
