// What bundle.mjs makes of built files, and a plugin of the same meaning in tests.

// A .wasm file is a function that returns its bytes, or its module where the host compiles no bytes. There the build
// with relaxed SIMD is undefined.
type WasmSource = () => Uint8Array<ArrayBuffer> | WebAssembly.Module;

declare module "*/simd.wasm" {
  const source: WasmSource;
  export default source;
}

declare module "*/relaxed.wasm" {
  const source: WasmSource | undefined;
  export default source;
}

declare module "*/extended.wasm" {
  const source: WasmSource;
  export default source;
}

// A .txt file is its text.
declare module "*.txt" {
  const text: string;
  export default text;
}

// A decoder of images is its bytes.
declare module "@jsquash/*.wasm" {
  const bytes: Uint8Array<ArrayBuffer>;
  export default bytes;
}
