// The copy that everything is measured against. Batch normalization cannot be had for less than reading x and writing y once.

/** copy(from, to, bytes) over a memory; `module` is the bytes of bench/assembly/copy.ts. */
export const copyKernel = (module, memory) => passesOver(module, memory).copy;

/** The same with relu, addRelu and gate. */
export const passesOver = (module, memory) =>
  new WebAssembly.Instance(new WebAssembly.Module(module), { env: { memory } }).exports;

/** The operation that copies tensor x to tensor y: the same bytes that our peer reads and writes, in the same places. */
export function copyOperation(module, x, y) {
  const copy = copyKernel(module, x.heap.memory);
  const { pointer, data } = x;
  const bytes = data.byteLength;
  return { call: () => copy(pointer, y.pointer, bytes), results: () => ({ y: y.data }) };
}
