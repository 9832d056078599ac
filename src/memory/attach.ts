// Tensors in the memory of another WebAssembly program, on which calls work without copies.

import { wrongKind, wrongValue } from "../common/errors.ts";
import { checkKeys, checkNumber, isObject } from "../common/validate.ts";
import { BYTES, type Dtype, dtypeOption } from "../tensor/dtype.ts";
import { sizeOf } from "../tensor/shape.ts";
import { HostHeap } from "./heap.ts";
import { Tensor, type tensor, tensorIn } from "./tensor.ts";

/** A WebAssembly.Memory if the TypeScript library declares it, else an object with its buffer. */
export type WasmMemory =
  typeof globalThis extends Record<"WebAssembly", Record<"Memory", Record<"prototype", infer M>>>
    ? M
    : { readonly buffer: ArrayBufferLike };

/** The memory of a WebAssembly program, and its allocator. */
export interface MemoryOwner {
  /** The program's memory. The program may grow it at any time. */
  memory: WasmMemory;
  /** Returns the address of `bytes` bytes, a multiple of 8, or 0 if there is no memory left. */
  malloc(bytes: number): number;
  /** Frees the bytes that `malloc` has returned. */
  free(pointer: number): void;
}

/** Makes tensors in the memory of a WebAssembly program. Calls on them work in that memory. */
export interface AttachedMemory {
  /** Returns a new tensor, as the function `tensor` does, in memory from `malloc`. Its `dispose` calls `free`. */
  tensor: typeof tensor;
  /**
   * Returns a tensor of the program's elements at address `pointer`, which its `dispose` leaves there. Throws TypeError
   * and RangeError for a wrong shape or type, and for an address outside the memory or not a multiple of an element.
   */
  tensorAt<D extends Dtype = "float32">(pointer: number, shape: readonly number[], options?: { dtype?: D }): Tensor<D>;
}

const VIEWS = { f32: Float32Array, f64: Float64Array, u8: Uint8Array, u16: Uint16Array, u32: Uint32Array };

/** A heap in a memory that its owner may grow between two calls. Its views follow the memory. */
class AttachedHeap extends HostHeap {
  /** The addresses that `malloc` has returned to this heap. Tensors at other addresses are the program's. */
  readonly #allocated = new Set<number>();

  constructor({ memory, malloc, free }: MemoryOwner) {
    super(memory as WebAssembly.Memory, { malloc, free });
    for (const [name, View] of Object.entries(VIEWS)) {
      let view = new View(this.memory.buffer);
      const get = () => {
        if (view.buffer !== this.memory.buffer) {
          view = new View(this.memory.buffer);
          this.refresh();
        }
        return view;
      };
      // `refresh` assigns new views, which the getter makes by itself
      Object.defineProperty(this, name, { get, set: () => {} });
    }
  }

  override allocate(bytes: number): number {
    const pointer = super.allocate(bytes);
    if (pointer % 8) {
      super.free(pointer);
      throw wrongValue("malloc", "an address that is a multiple of 8", pointer);
    }
    this.#allocated.add(pointer);
    return pointer;
  }

  override free(pointer: number): void {
    if (this.#allocated.delete(pointer)) super.free(pointer);
  }
}

/**
 * Lets calls work in the memory of a WebAssembly program without copies: of Emscripten, wasm-bindgen, AssemblyScript,
 * or another with an allocator. Such calls run on one thread, and allocate results without `out` and scratch by
 * `malloc`. Forgotten results are not freed. docs/guides/other-memory.md has examples.
 *
 * Throws TypeError for wrong arguments and for a memory that the kernels cannot import, such as a 64-bit one.
 */
export function attachMemory(owner: MemoryOwner): AttachedMemory {
  checkKeys("owner", owner, ["memory", "malloc", "free"]);
  const { memory } = owner;
  if (!isObject(memory) || Object.prototype.toString.call(memory) !== "[object WebAssembly.Memory]")
    throw wrongKind("owner.memory", "a WebAssembly.Memory", memory);
  for (const name of ["malloc", "free"] as const)
    if (typeof owner[name] !== "function") throw wrongKind(`owner.${name}`, "a function", owner[name]);
  let heap: AttachedHeap;
  try {
    heap = new AttachedHeap(owner);
  } catch (error) {
    if (!/^(Link|Type)Error$/.test((error as Error).name)) throw error; // there may be no WebAssembly.LinkError
    throw wrongKind("owner.memory", "a WebAssembly.Memory of at least one page, with 32-bit addresses", memory);
  }
  const tensorAt = <D extends Dtype = "float32">(
    pointer: number,
    shape: readonly number[],
    options: { dtype?: D } = {},
  ): Tensor<D> => {
    checkKeys("tensor options", options, ["dtype"]);
    const dtype = dtypeOption(options.dtype) as D;
    const length = sizeOf("tensor", shape);
    const address =
      checkNumber("pointer", pointer, "a 32-bit address", (n) => Number.isInteger(n) && Math.abs(n) < 2 ** 32) >>> 0;
    const size = BYTES[dtype];
    if (address === 0 || address % size) throw wrongValue("pointer", `a multiple of ${size} above 0`, address);
    const { length: bytes } = heap.u8;
    if (address + length * size > bytes)
      throw wrongValue("pointer", `an address of ${length * size} bytes in a memory of ${bytes}`, address);
    return new Tensor(heap, shape, length, dtype, address);
  };
  return { tensor: tensorIn(() => heap), tensorAt };
}
