// A WebAssembly program with a memory of its own, in AssemblyScript. main.mjs compiles it.

/** Returns the address of `bytes` bytes. */
export function malloc(bytes: usize): usize {
  return heap.alloc(bytes);
}

/** Frees the bytes at an address that `malloc` has returned. */
export function free(pointer: usize): void {
  heap.free(pointer);
}

/** Writes `length` elements, as a program does that reads a sensor, decodes an image or runs a layer. */
export function produce(pointer: usize, length: i32): void {
  for (let i = 0; i < length; i++) store<f32>(pointer + ((<usize>i) << 2), Mathf.sin(<f32>i) * 3 + 1);
}

/** Returns the sum of squares of `length` elements, as a program does that goes on with the results. */
export function sumOfSquares(pointer: usize, length: i32): f64 {
  let sum: f64 = 0;
  for (let i = 0; i < length; i++) {
    const value = load<f32>(pointer + ((<usize>i) << 2));
    sum += <f64>value * value;
  }
  return sum;
}
