// What this engine can run, found by asking it: a version says nothing about flags, forks and embedders.

/** (module (func (result v128) i32.const 0 i8x16.splat)) */
const SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

/** Whether the engine has 128-bit SIMD. */
export const simd = (): boolean => WebAssembly.validate(SIMD_PROBE);
