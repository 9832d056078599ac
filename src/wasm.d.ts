// A .wasm file is imported as its bytes: esbuild's binary loader in the build, a plugin of the same meaning in tests.
declare module "*.wasm" {
  const bytes: Uint8Array<ArrayBuffer>;
  export default bytes;
}
