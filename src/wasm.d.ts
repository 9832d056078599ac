// A .wasm file is imported as its bytes, a .txt file as its text: esbuild's loaders in the build, a plugin of the same
// meaning in tests.
declare module "*.wasm" {
  const bytes: Uint8Array<ArrayBuffer>;
  export default bytes;
}

declare module "*.txt" {
  const text: string;
  export default text;
}
