// Types of globals that a program's TypeScript library may lack. Without them, declarations name them as objects, so that
// they compile with lib es2022 alone.

/** A WebAssembly.Module if the TypeScript library declares it, else any object. */
export type WasmModule =
  typeof globalThis extends Record<"WebAssembly", Record<"Module", Record<"prototype", infer M>>> ? M : object;

/** A MessagePort if the TypeScript library declares it, else any object. */
export type Port = typeof globalThis extends Record<"MessagePort", Record<"prototype", infer P>> ? P : object;
