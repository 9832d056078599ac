// What this engine can run, found by asking it: a version says nothing about flags, forks and embedders.

/** (module (func (result v128) i32.const 0 i8x16.splat)) */
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

/** (module (func (param v128) (result v128) local.get 0 local.get 0 local.get 0 f32x4.relaxed_madd)) */
const RELAXED_SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0, 32, 0, 32, 0, 32, 0, 253, 133,
  2, 11,
]);

/** Whether the engine has 128-bit SIMD. */
export const simd = (): boolean => WebAssembly.validate(SIMD_PROBE);

/** Whether the engine has relaxed SIMD, and with it fused multiply-add. */
export const relaxedSimd = (): boolean => WebAssembly.validate(RELAXED_SIMD_PROBE);

/** Whether threads may share memory: not in a page that is not cross-origin isolated. */
export const sharedMemory = (): boolean =>
  typeof SharedArrayBuffer === "function" &&
  (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false;

/** Whether there are Node's own modules. */
export const node = (): boolean =>
  !!(globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node;

/** Whether this is an AudioWorklet. */
export const audioWorklet = (): boolean => "registerProcessor" in globalThis;

/** Processors that the engine reports, or 1 where it does not say. */
export async function processors(): Promise<number> {
  const { navigator } = globalThis as { navigator?: { hardwareConcurrency?: number } };
  if (navigator?.hardwareConcurrency) return navigator.hardwareConcurrency;
  if (!node()) return 1;
  return (await nodeModule<{ availableParallelism(): number }>("os")).availableParallelism();
}

/** A module of Node, in a way that no bundler tries to follow. */
export const nodeModule = <T>(name: string): Promise<T> =>
  import(/* @vite-ignore */ /* webpackIgnore: true */ `node:${name}`);
