// Linear memory: where tensors and scratch lie, who owns which bytes, how it grows. The only file that touches
// memory.buffer. Everything above asks it for views at the moment of use, because growth detaches the old ones.
//
//   0        1 KiB                                                          4 GiB
//   | unused | tensor | free | workspace | tensor | … → grows by 64 KiB pages |
//
// Pointer 0 is never handed out: kernels read it as "none".

import { outOfMemory } from "../common/errors.ts";
import type { Geometry } from "../tensor/shape.ts";
import { Kernels, PLANES, type Plan, readPlan, TILED } from "../wasm/kernels.ts";
import { type Build, type Exports, type ExtendedExports, instantiateKernels, kernelBuild } from "../wasm/module.ts";
import type { Pool } from "../wasm/threads/pool.ts";
import { Allocator } from "./allocator.ts";

const PAGE = 65536;
const MAX_PAGES = 65535; // one page short of 4 GiB, so that no end of a range wraps to 0

/** What the facade needs of a memory, so that another library's heap can stand in for ours. */
export interface Heap {
  readonly kernels: Kernels;
  /** The same for float64. */
  readonly kernels64: Kernels;
  /** Views of the whole memory, valid until the next allocation. */
  readonly f32: Float32Array;
  readonly f64: Float64Array;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly workspace: Workspace;
  /** Bytes, aligned to 64; throws BatchNormError "out-of-memory" and changes nothing. */
  allocate(bytes: number): number;
  free(pointer: number): void;
}

const buffers = new WeakSet<ArrayBufferLike>();

/** Whether a view lies in a heap's memory, so that growth would empty it. */
export const inWasmMemory = (view: ArrayBufferView): boolean => buffers.has(view.buffer);

/** A memory with the kernels instantiated over it. Who owns it says how bytes are allocated in it. */
abstract class KernelHeap implements Heap {
  readonly build: Build;
  readonly kernels: Kernels;
  readonly kernels64: Kernels;
  readonly workspace: Workspace;
  /** For other modules that work on the same tensors. */
  readonly memory: WebAssembly.Memory;
  /** The first module's kernels. */
  readonly core: Exports;
  #extended: ExtendedExports | undefined;
  #f32 = new Float32Array();
  #f64 = new Float64Array();
  #u8 = new Uint8Array();
  #u16 = new Uint16Array();
  #u32 = new Uint32Array();

  constructor(build: Build, memory: WebAssembly.Memory) {
    this.build = build;
    this.memory = memory;
    this.refresh();
    this.core = instantiateKernels<Exports>(build.module, memory);
    const extended = () => this.extended;
    this.kernels = new Kernels(this.core, extended);
    this.kernels64 = new Kernels(this.core, extended, true);
    this.workspace = new Workspace(this);
  }

  /** Takes views anew where the memory has grown. */
  refresh(): void {
    const { buffer } = this.memory;
    if (buffer === this.#u8.buffer) return;
    buffers.add(buffer);
    this.#f32 = new Float32Array(buffer);
    this.#f64 = new Float64Array(buffer);
    this.#u8 = new Uint8Array(buffer);
    this.#u16 = new Uint16Array(buffer);
    this.#u32 = new Uint32Array(buffer);
  }

  /** The second module's kernels, instantiated when they are first asked for. */
  get extended(): ExtendedExports {
    this.#extended ??= instantiateKernels<ExtendedExports>(this.build.extended(), this.memory);
    return this.#extended;
  }

  get f32(): Float32Array {
    return this.#f32;
  }

  get f64(): Float64Array {
    return this.#f64;
  }

  get u8(): Uint8Array {
    return this.#u8;
  }

  get u16(): Uint16Array {
    return this.#u16;
  }

  get u32(): Uint32Array {
    return this.#u32;
  }

  abstract allocate(bytes: number): number;
  abstract free(pointer: number): void;
}

/** A WebAssembly.Memory of our own. */
export class WasmHeap extends KernelHeap {
  /** Why it has as many threads as it has. */
  threadsReason = "init was not asked for more";
  readonly #allocator: Allocator;

  /** `shared` memory is what a build for many threads wants, and only that. */
  constructor(build: Build, { maximumPages = MAX_PAGES, shared = false } = {}) {
    super(build, new WebAssembly.Memory({ initial: 1, maximum: maximumPages, shared }));
    this.#allocator = new Allocator((end) => {
      const have = this.u8.length;
      if (end <= have) return;
      const pages = Math.ceil((end - have) / PAGE);
      const limit = maximumPages * PAGE;
      if (have + pages * PAGE > limit) throw outOfMemory(end - have, this.#allocator.used, limit);
      try {
        this.memory.grow(pages);
      } catch {
        throw outOfMemory(end - have, this.#allocator.used, have);
      }
      this.refresh();
    });
  }

  /** Has a pool take part in calls, or none. */
  set pool(pool: Pool | undefined) {
    this.kernels.pool = pool;
    this.kernels64.pool = pool;
  }

  /** Bytes in use and bytes that the memory has grown to; it never shrinks. */
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

/** An allocator of C: 0 where there is no more to be had, pointers that may be negative above 2 GiB. */
export interface HostAllocator {
  malloc(bytes: number): number;
  free(pointer: number): void;
}

/**
 * Another library's memory. It may grow between two calls, behind our back: `refresh` before every call. What is allocated
 * is as that library allocates it, so that it can take a tensor over; 8 bytes of alignment are enough for the kernels.
 */
export class HostHeap extends KernelHeap {
  readonly #host: HostAllocator;

  /** Throws WebAssembly.LinkError for a memory that the kernels do not fit. */
  constructor(memory: WebAssembly.Memory, host: HostAllocator) {
    const shared = typeof SharedArrayBuffer === "function" && memory.buffer instanceof SharedArrayBuffer;
    super(kernelBuild(shared ? "shared" : "own"), memory);
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

/** The plan of a call, with its vectors and scratch: one at a time on a heap. */
export class Workspace {
  readonly #heap: KernelHeap;
  #pointer = 0;
  #bytes = 0;
  #plan: Plan | undefined;
  #geometry: Geometry | undefined;
  #elementBytes = 0;
  #options = 0;

  constructor(heap: KernelHeap) {
    this.#heap = heap;
  }

  /** Plans a tensor that is not empty, if the latest plan is another; allocates only for more room than any plan before. */
  plan(g: Geometry, elementBytes: number, tiled: boolean): Plan {
    const options = (tiled ? TILED : 0) + (g.planes ? PLANES : 0);
    if (this.#plan && elementBytes === this.#elementBytes && options === this.#options && this.#isOf(g))
      return this.#plan;
    const { core } = this.#heap;
    const bytes = core.workspace(elementBytes, g.outer, g.channels, g.inner) >>> 0;
    if (bytes > this.#bytes) {
      const pointer = this.#heap.allocate(bytes);
      if (this.#pointer) this.#heap.free(this.#pointer);
      this.#pointer = pointer;
      this.#bytes = bytes;
    }
    core.plan(this.#pointer, elementBytes, g.outer, g.channels, g.inner, options);
    this.#plan = readPlan(this.#heap.u32, this.#pointer);
    this.#geometry = g;
    this.#elementBytes = elementBytes;
    this.#options = options;
    return this.#plan;
  }

  #isOf({ outer, channels, inner }: Geometry): boolean {
    const last = this.#geometry;
    return last !== undefined && last.outer === outer && last.channels === channels && last.inner === inner;
  }
}

let current: WasmHeap | undefined;

/** The heap of tensors and of calls on plain arrays; made on first use. */
export function defaultHeap(): WasmHeap {
  current ??= new WasmHeap(kernelBuild());
  return current;
}

/** The default heap, if there is one already. */
export const currentHeap = (): WasmHeap | undefined => current;

/** What is made from here on lies in this heap. */
export function useHeap(heap: WasmHeap): void {
  current = heap;
}

/** What calls run on: which build of the kernels, on how many threads, and why. */
export function info(): { build: Build["name"]; buildReason: string; threads: number; threadsReason: string } {
  const { build, kernels, threadsReason } = defaultHeap();
  return { build: build.name, buildReason: build.reason, threads: kernels.pool?.threads ?? 1, threadsReason };
}
