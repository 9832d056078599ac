// Linear memory: the heap of tensors and workspaces, and how it grows. This is the only file that touches
// memory.buffer. Other files ask the heap for views when they use them, because growth detaches older views.
//
//   0        1 KiB                                                          4 GiB
//   | unused | tensor | free | workspace | tensor | … → grows by 64 KiB pages |
//
// Pointer 0 is never handed out, because to kernels it means "none".

import { outOfMemory } from "../common/errors.ts";
import type { Geometry } from "../tensor/shape.ts";
import { Kernels, PLANES, type Plan, TILED } from "../wasm/kernels.ts";
import {
  type Build,
  type BuildName,
  type Exports,
  type ExtendedExports,
  instantiateKernels,
  kernelBuild,
} from "../wasm/module.ts";
import type { Pool } from "../wasm/threads/pool.ts";
import { Allocator } from "./allocator.ts";

/** Bytes of a page of WebAssembly memory. */
const PAGE = 65536;

/** Pages of a memory at most: one less than 4 GiB, so that the end of a range never wraps to 0. */
const MAX_PAGES = 65535;

/** A memory with kernels over it, as calls use it. Another library's heap can implement it too. */
export interface Heap {
  /** The phases for float32. */
  readonly kernels: Kernels;
  /** The phases for float64. */
  readonly kernels64: Kernels;
  /** The whole memory as float32. Like the other views, it is valid until the next allocation. */
  readonly f32: Float32Array;
  /** The whole memory as float64. */
  readonly f64: Float64Array;
  /** The whole memory as bytes. */
  readonly u8: Uint8Array;
  /** The whole memory as unsigned 16-bit integers. */
  readonly u16: Uint16Array;
  /** The whole memory as unsigned 32-bit integers. */
  readonly u32: Uint32Array;
  /** The plan and the workspace of calls. */
  readonly workspace: Workspace;
  /** Returns the address of `bytes` bytes. Throws BatchNormError "out-of-memory", and then changes nothing. */
  allocate(bytes: number): number;
  /** Frees the bytes that `allocate` has returned. */
  free(pointer: number): void;
  /** Frees the addresses of tensors that have been collected. Undefined if the heap or the engine does not do that. */
  readonly collected?: FinalizationRegistry<number> | undefined;
}

/** The memories of all heaps by their buffers, older ones included. */
const memories = new WeakMap<ArrayBufferLike, WebAssembly.Memory>();

/** Returns whether a view lies in a heap's memory, so that growth would empty it. */
export const inWasmMemory = (view: ArrayBufferView): boolean => memories.has(view.buffer);

/** Returns what two views have in common if they are of the same memory. A shared memory that grows has many buffers. */
export const memoryOf = ({ buffer }: ArrayBufferView): object => memories.get(buffer) ?? buffer;

/** A memory with the kernels instantiated over it. Subclasses decide how bytes are allocated. */
export abstract class KernelHeap implements Heap {
  /** The reason for the number of threads, for `kernelInfo`. */
  threadsReason = "init was not asked for more";
  readonly build: Build;
  readonly kernels: Kernels;
  readonly kernels64: Kernels;
  readonly workspace: Workspace;
  /** The memory, which other modules may import to work on the same tensors. */
  readonly memory: WebAssembly.Memory;
  /** The exports of the core. */
  readonly core: Exports;
  #extended: ExtendedExports | undefined;
  // Views of the whole memory. `refresh` replaces them when the memory has grown.
  f32 = new Float32Array();
  f64 = new Float64Array();
  u8 = new Uint8Array();
  u16 = new Uint16Array();
  u32 = new Uint32Array();

  constructor(build: Build, memory: WebAssembly.Memory) {
    this.build = build;
    this.memory = memory;
    this.refresh();
    this.core = instantiateKernels<Exports>(build.module, memory);
    const getExtended = () => this.extended;
    this.kernels = new Kernels(this.core, getExtended);
    this.kernels64 = new Kernels(this.core, getExtended, true);
    this.workspace = new Workspace(this);
  }

  /** Makes new views if the memory has grown. */
  refresh(): void {
    const { buffer } = this.memory;
    if (buffer === this.u8.buffer) return;
    memories.set(buffer, this.memory);
    this.f32 = new Float32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
  }

  /** The exports of the second module, which is instantiated when it is first used. */
  get extended(): ExtendedExports {
    this.#extended ??= instantiateKernels<ExtendedExports>(this.build.extended(), this.memory);
    return this.#extended;
  }

  /** The pool whose threads take part in calls. Undefined: calls run on one thread. */
  set pool(pool: Pool | undefined) {
    this.kernels.pool = pool;
    this.kernels64.pool = pool;
  }

  abstract allocate(bytes: number): number;
  abstract free(pointer: number): void;
}

/** A heap in a WebAssembly.Memory of its own, which grows as needed. */
export class WasmHeap extends KernelHeap {
  readonly #allocator: Allocator;
  readonly collected =
    typeof FinalizationRegistry === "function"
      ? new FinalizationRegistry<number>((pointer) => this.free(pointer))
      : undefined;

  /**
   * Makes the memory. A build for several threads needs `shared` memory, and other builds need memory that is not
   * shared.
   */
  constructor(build: Build, { maximumPages = MAX_PAGES, shared = false } = {}) {
    super(build, new WebAssembly.Memory({ initial: 1, maximum: maximumPages, shared }));
    this.#allocator = new Allocator((end) => {
      const capacity = this.u8.length;
      if (end <= capacity) return;
      const pages = Math.ceil((end - capacity) / PAGE);
      const limit = maximumPages * PAGE;
      if (capacity + pages * PAGE > limit) throw outOfMemory(end - capacity, this.#allocator.used, limit);
      try {
        this.memory.grow(pages);
      } catch {
        throw outOfMemory(end - capacity, this.#allocator.used, capacity);
      }
      this.refresh();
    });
  }

  /** The bytes in use, and the bytes that the memory has grown to. It never shrinks. */
  get usage(): { used: number; capacity: number } {
    return { used: this.#allocator.used, capacity: this.u8.length };
  }

  allocate(bytes: number): number {
    return this.#allocator.allocate(bytes);
  }

  free(pointer: number): void {
    this.#allocator.free(pointer);
  }
}

/** The allocator of a library that is compiled to wasm. */
export interface HostAllocator {
  /** Returns a pointer, or 0 if there is no memory left. Pointers above 2 GiB may be negative. */
  malloc(bytes: number): number;
  free(pointer: number): void;
}

/**
 * A heap in another library's memory. That library may grow it between two calls, so `refresh` has to come before every
 * call. Tensors are allocated by that library's allocator, so that the library can own them. Kernels need an alignment
 * of 8 bytes.
 */
export class HostHeap extends KernelHeap {
  /** Whether threads can share the memory. */
  readonly shared: boolean;
  readonly #host: HostAllocator;

  /** Instantiates the kernels over the memory. Throws WebAssembly.LinkError if they cannot import it. */
  constructor(memory: WebAssembly.Memory, host: HostAllocator) {
    const isShared = (m: WebAssembly.Memory) =>
      Object.prototype.toString.call(m.buffer) === "[object SharedArrayBuffer]";
    const shared = isShared(memory);
    // the build that init was asked for, so that calls have the same bits in this memory
    const ours = current && isShared(current.memory) === shared ? current.build : undefined;
    super(ours ?? kernelBuild(shared ? "shared" : "own"), memory);
    this.shared = shared;
    this.#host = host;
  }

  allocate(bytes: number): number {
    const pointer = this.#host.malloc(bytes) >>> 0;
    if (pointer === 0) throw outOfMemory(bytes, this.u8.length, this.u8.length);
    this.refresh();
    return pointer;
  }

  free(pointer: number): void {
    this.#host.free(pointer);
  }
}

/** The workspace of a heap: memory for one plan, with its vectors and its scratch. Every call plans it anew. */
export class Workspace {
  readonly #heap: Heap;
  #pointer = 0;
  #bytes = 0;
  #plan: Plan | undefined;
  #options = 0;

  constructor(heap: Heap) {
    this.#heap = heap;
  }

  /**
   * Returns the plan of a tensor that is not empty. The plan is written only if the latest plan differs, and memory is
   * allocated only if the plan needs more than all earlier ones.
   */
  plan(geometry: Geometry, kernels: Kernels, tiled: boolean): Plan {
    const options = (tiled ? TILED : 0) | (geometry.planes ? PLANES : 0);
    const last = this.#plan;
    if (last?.outer === geometry.outer && last.channels === geometry.channels && last.inner === geometry.inner)
      if (last.elementBytes === kernels.bytes && options === this.#options) return last;
    const bytes = kernels.workspaceBytes(geometry);
    if (bytes > this.#bytes) {
      const pointer = this.#heap.allocate(bytes);
      if (this.#pointer) this.#heap.free(this.#pointer);
      this.#pointer = pointer;
      this.#bytes = bytes;
    }
    this.#plan = kernels.plan(this.#heap.u32, this.#pointer, geometry, options);
    this.#options = options;
    return this.#plan;
  }
}

let current: WasmHeap | undefined;

/** Returns the heap of new tensors and of calls on plain arrays. The first call makes it. */
export function defaultHeap(): WasmHeap {
  current ??= new WasmHeap(kernelBuild());
  return current;
}

/** Returns the default heap, or undefined if nothing has used it yet. */
export const currentHeap = (): WasmHeap | undefined => current;

/** Makes a heap the default one. */
export function useHeap(heap: WasmHeap): void {
  current = heap;
}

/** The build of the kernels and the number of threads that calls run on. */
export interface Info {
  /** "simd", "relaxed" with relaxed SIMD, or "given" for an option `module` of init that does not tell. */
  build: BuildName | "given";
  /** The reason for this build, as a text for people. */
  buildReason: string;
  /** The number of threads that calls on tensors run on, the caller's included. */
  threads: number;
  /** The reason for this number of threads, as a text for people. */
  threadsReason: string;
}

/** Returns the build of the kernels and the number of threads that calls run on, each with its reason. */
export function kernelInfo(): Info {
  const { build, kernels, threadsReason } = defaultHeap();
  return { build: build.name, buildReason: build.reason, threads: kernels.pool?.threads ?? 1, threadsReason };
}
