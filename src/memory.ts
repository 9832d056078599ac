// Linear memory: where tensors and scratch lie, who owns which bytes, how it grows. The only file that touches
// memory.buffer. Everything above asks it for views at the moment of use, because growth detaches the old ones.
//
//   0        1 KiB                                                          4 GiB
//   | unused | tensor | free | workspace | tensor | … → grows by 64 KiB pages |
//
// Pointer 0 is never handed out: kernels read it as "none".

import {
  BYTES,
  bitsOf,
  type Data,
  type DataOf,
  type Dtype,
  dtypeOf,
  dtypeOption,
  isNarrow,
  storeOf,
  viewOf,
} from "./dtype.ts";
import { disposed, otherMemory, outOfMemory, tooLarge, wrongKind, wrongLength } from "./errors.ts";
import { type Geometry, MAX_BYTES, sizeOf } from "./geometry.ts";
import { Kernels, PLANES, type Plan, readPlan, TILED } from "./kernels.ts";
import { type Build, type Exports, type ExtendedExports, instantiateKernels, kernelBuild } from "./module.ts";
import { checkKeys } from "./options.ts";
import type { Pool } from "./threads.ts";

const PAGE = 65536;
const MAX_PAGES = 65535; // one page short of 4 GiB, so that no end of a range wraps to 0

/** Bytes at the bottom that stay free; the compiler folds constant offsets below this into addresses. */
const BASE = 1024;

/** A cache line: no two tensors share one, and whole vectors never straddle two. */
const ALIGNMENT = 64;

const align = (bytes: number) => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

const ALIAS = 4096;
const STAGGER = 1088;

/**
 * Bytes to reserve for a tensor. Large ones take 1088 more than a multiple of 4 KiB, so that tensors allocated one after
 * the other do not start at the same place in their pages: where they do, a store holds up loads 4 KiB away, and backward
 * of [4096, 1024] takes 5.8 copies of the tensor instead of 4.3.
 */
const staggered = (bytes: number) => (bytes < ALIAS ? bytes : Math.ceil((bytes - STAGGER) / ALIAS) * ALIAS + STAGGER);

/**
 * Best-fit allocation in [BASE, limit): arithmetic only. It computes a place, has the memory grown to reach it, and only
 * then commits; where growing throws, nothing has changed.
 */
export class Allocator {
  /** Free ranges below the top, by address; no two touch. */
  readonly #free: { begin: number; end: number }[] = [];
  readonly #sizes = new Map<number, number>();
  readonly #grow: (end: number) => void;
  #top = BASE;
  #used = 0;

  /** `grow(end)` makes bytes up to `end` usable, or throws. */
  constructor(grow: (end: number) => void) {
    this.#grow = grow;
  }

  /** Bytes handed out and not yet freed. */
  get used(): number {
    return this.#used;
  }

  allocate(bytes: number): number {
    const size = align(Math.max(bytes, 1));
    let best = -1;
    for (const [i, range] of this.#free.entries()) {
      const room = range.end - range.begin;
      const chosen = this.#free[best];
      if (room >= size && (!chosen || room < chosen.end - chosen.begin)) best = i;
    }
    const range = this.#free[best];
    const pointer = range ? range.begin : this.#top;
    if (!range) {
      this.#grow(pointer + size);
      this.#top = pointer + size;
    } else if (range.end - range.begin === size) this.#free.splice(best, 1);
    else range.begin += size;
    this.#sizes.set(pointer, size);
    this.#used += size;
    return pointer;
  }

  free(pointer: number): void {
    const size = this.#sizes.get(pointer);
    if (size === undefined) throw wrongKind("pointer", "one that was allocated and not freed", pointer);
    this.#sizes.delete(pointer);
    this.#used -= size;
    let i = this.#free.findIndex((range) => range.begin > pointer);
    if (i < 0) i = this.#free.length;
    this.#free.splice(i, 0, { begin: pointer, end: pointer + size });
    for (const left of [i, i - 1]) {
      const a = this.#free[left];
      const b = this.#free[left + 1];
      if (a && b && a.end === b.begin) {
        a.end = b.end;
        this.#free.splice(left + 1, 1);
      }
    }
    const last = this.#free.at(-1);
    if (last?.end === this.#top) {
      this.#top = last.begin;
      this.#free.pop();
    }
  }
}

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

function checkBytes(shape: readonly number[], bytes: number): void {
  if (bytes > MAX_BYTES) throw tooLarge("tensor", shape, bytes, MAX_BYTES);
}

/** A tensor in wasm memory, which calls read and write without copying. Made by `tensor`, freed by `dispose`. */
export class Tensor<D extends Dtype = "float32"> {
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  readonly shape: readonly number[];
  /** Type of the elements. */
  readonly dtype: D;
  readonly #heap: Heap;
  readonly #length: number;
  #pointer: number;
  #data: DataOf[D] | undefined;

  /** For this library's own use: leaves the elements as they are in memory, at `pointer` where the heap's owner put them. */
  constructor(heap: Heap, shape: readonly number[], length: number, dtype: D, pointer?: number) {
    const bytes = length * BYTES[dtype];
    checkBytes(shape, bytes);
    this.shape = Object.freeze([...shape]);
    this.dtype = dtype;
    this.#heap = heap;
    this.#length = length;
    this.#pointer = pointer ?? heap.allocate(staggered(bytes));
  }

  get heap(): Heap {
    return this.#heap;
  }

  get length(): number {
    return this.#length;
  }

  get disposed(): boolean {
    return this.#pointer === 0;
  }

  /** Byte offset in the heap's memory. Throws BatchNormError "disposed". */
  get pointer(): number {
    if (this.#pointer === 0) throw disposed("tensor");
    return this.#pointer;
  }

  /**
   * The elements, live: what is written here is what the next call reads. Ask for it anew after calls that allocate;
   * when memory grows, views taken earlier become empty. 16-bit elements are a Float16Array where the dtype is "float16"
   * and the engine has it, else bits in a Uint16Array. Throws BatchNormError "disposed".
   */
  get data(): DataOf[D] {
    const { pointer } = this;
    const { buffer } = this.#heap.f32;
    if (this.#data?.buffer !== buffer) this.#data = viewOf(this.dtype, buffer, pointer, this.#length);
    return this.#data;
  }

  /** Frees the memory. Calling it again does nothing. */
  dispose(): void {
    if (this.#pointer === 0) return;
    this.#heap.free(this.#pointer);
    this.#pointer = 0;
    this.#data = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
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

/**
 * A tensor in wasm memory, of `data` or zeros. Rank 0 and up; at most 4 GiB. `dtype` is that of `data`, or float32; a
 * Uint16Array needs it. Throws RangeError for a wrong shape or length, TypeError for other data, BatchNormError
 * "out-of-memory".
 */
export function tensor(
  shape: readonly number[],
  data?: Float32Array | readonly number[],
  options?: { dtype?: "float32" },
): Tensor;
export function tensor(
  shape: readonly number[],
  data: Float64Array,
  options?: { dtype?: "float64" },
): Tensor<"float64">;
export function tensor<D extends Dtype>(
  shape: readonly number[],
  data: DataOf[D] | readonly number[] | undefined,
  options: { dtype: D },
): Tensor<D>;
export function tensor(
  shape: readonly number[],
  data?: Data | readonly number[],
  options: { dtype?: Dtype } = {},
): Tensor<Dtype> {
  checkKeys("tensor options", options, ["dtype"]);
  const said = options.dtype === undefined ? undefined : dtypeOption(options.dtype);
  const list = Array.isArray(data) && data.every((v) => typeof v === "number");
  const found = data === undefined || list ? (said ?? "float32") : dtypeOf(data, said);
  if (!found || (said && found !== said))
    throw wrongKind("data", said ? `elements of dtype "${said}"` : "a Float32Array or an array of numbers", data);
  if (list && isNarrow(found)) throw wrongKind("data", `elements of dtype "${found}"`, data);
  storeOf(found, `data of ${found}`);
  const length = sizeOf("tensor", shape);
  checkBytes(shape, length * BYTES[found]);
  if (data !== undefined && data.length !== length) throw wrongLength("data", shape, data.length);
  const heap = defaultHeap();
  // a view of this very memory would be emptied by growth
  const source = data !== undefined && !list && inWasmMemory(data as Data) ? (data as Data).slice() : data;
  const made = new Tensor(heap, shape, length, found);
  const elements = bitsOf(made.data) as Float32Array;
  if (source) elements.set(list ? (source as readonly number[]) : (bitsOf(source as Data) as Float32Array));
  else elements.fill(0);
  return made;
}

/** Refuses a tensor that is gone or lies in another memory. */
export function checkTensor(name: string, t: Tensor<Dtype>, heap: Heap): void {
  if (t.disposed) throw disposed(name);
  if (t.heap !== heap) throw otherMemory(name);
}
