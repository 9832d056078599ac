// Linear memory: where tensors and scratch lie, who owns which bytes, how it grows. The only file that touches
// memory.buffer. Everything above asks it for views at the moment of use, because growth detaches the old ones.
//
//   0        1 KiB                                                          4 GiB
//   | unused | tensor | free | workspace | tensor | … → grows by 64 KiB pages |
//
// Pointer 0 is never handed out: kernels read it as "none".

import {
  disposed,
  NO_SHARED_MEMORY,
  oneThreadWarning,
  otherMemory,
  outOfMemory,
  tooLarge,
  wrongKind,
  wrongLength,
} from "./errors.ts";
import { processors, sharedMemory } from "./features.ts";
import { type Geometry, MAX_BYTES, sizeOf } from "./geometry.ts";
import { Kernels } from "./kernels.ts";
import { type Build, compileAhead, instantiateKernels, kernelBuild } from "./module.ts";
import { checkKeys, threadsOption } from "./options.ts";
import { MAX_THREADS, Pool } from "./threads.ts";

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
  /** Views of the whole memory, valid until the next allocation. */
  readonly f32: Float32Array;
  readonly f64: Float64Array;
  readonly u8: Uint8Array;
  readonly workspace: Workspace;
  /** Bytes, aligned to 64; throws BatchNormError "out-of-memory" and changes nothing. */
  allocate(bytes: number): number;
  free(pointer: number): void;
}

const buffers = new WeakSet<ArrayBufferLike>();

/** Whether a view lies in a heap's memory, so that growth would empty it. */
export const inWasmMemory = (view: Float32Array): boolean => buffers.has(view.buffer);

/** A WebAssembly.Memory of our own, with the kernels instantiated over it. */
export class WasmHeap implements Heap {
  readonly build: Build;
  readonly kernels: Kernels;
  readonly workspace: Workspace;
  readonly #memory: WebAssembly.Memory;
  readonly #allocator: Allocator;
  #f32 = new Float32Array();
  #f64 = new Float64Array();
  #u8 = new Uint8Array();

  /** `shared` memory is what a build for many threads wants, and only that. */
  constructor(build: Build, { maximumPages = MAX_PAGES, shared = false } = {}) {
    this.build = build;
    this.#memory = new WebAssembly.Memory({ initial: 1, maximum: maximumPages, shared });
    this.#view();
    this.kernels = new Kernels(instantiateKernels(build.module, this.#memory));
    this.#allocator = new Allocator((end) => {
      const have = this.#u8.length;
      if (end <= have) return;
      const pages = Math.ceil((end - have) / PAGE);
      const limit = maximumPages * PAGE;
      if (have + pages * PAGE > limit) throw outOfMemory(end - have, this.#allocator.used, limit);
      try {
        this.#memory.grow(pages);
      } catch {
        throw outOfMemory(end - have, this.#allocator.used, have);
      }
      this.#view();
    });
    this.workspace = new Workspace(this);
  }

  #view(): void {
    buffers.add(this.#memory.buffer);
    this.#f32 = new Float32Array(this.#memory.buffer);
    this.#f64 = new Float64Array(this.#memory.buffer);
    this.#u8 = new Uint8Array(this.#memory.buffer);
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

  /** For other modules that work on the same tensors. */
  get memory(): WebAssembly.Memory {
    return this.#memory;
  }

  /** Bytes in use and bytes that the memory has grown to; it never shrinks. */
  get usage(): { used: number; capacity: number } {
    return { used: this.#allocator.used, capacity: this.#u8.length };
  }

  allocate(bytes: number): number {
    return this.#allocator.allocate(bytes);
  }

  free(pointer: number): void {
    this.#allocator.free(pointer);
  }
}

/** Scratch for one call, shared by all calls on a heap: vectors as long as there are channels or columns. */
export class Workspace {
  readonly #heap: Heap;
  #block = 0;
  #channels = 0;
  #columns = 0;
  #perStripe = 0;

  /** f64, one per channel. */
  mean = 0;
  variance = 0;
  invStd = 0;
  dGamma = 0;
  dBeta = 0;
  /** f64, one per column of each stripe. */
  first = 0;
  second = 0;
  /** f32, one per channel. */
  gamma = 0;
  beta = 0;
  pivot = 0;
  /** f32, four rows of one per channel. */
  coefficients = 0;
  /** f32, one per column; then four rows of that. */
  columnPivot = 0;
  columnCoefficients = 0;
  /** f32, two rows of one per column for each stripe. */
  scratch = 0;
  /** u8, one per channel. */
  doubtful = 0;

  constructor(heap: Heap) {
    this.#heap = heap;
  }

  /** Makes room for a walk; allocates only when it is larger than any before. */
  reserve(g: Geometry): this {
    const perStripe = g.columns * g.stripes;
    if (g.channels <= this.#channels && g.columns <= this.#columns && perStripe <= this.#perStripe) return this;
    const channels = Math.max(g.channels, this.#channels);
    const columns = Math.max(g.columns, this.#columns);
    const sums = Math.max(perStripe, this.#perStripe);
    let bytes = 0;
    const place = (size: number) => {
      const at = bytes;
      bytes += align(size);
      return at;
    };
    const c8 = Array.from({ length: 5 }, () => place(channels * 8));
    const k8 = Array.from({ length: 2 }, () => place(sums * 8));
    const c4 = Array.from({ length: 3 }, () => place(channels * 4));
    const coefficients = place(channels * 16);
    const columnPivot = place(columns * 4);
    const columnCoefficients = place(columns * 16);
    const scratch = place(sums * 8);
    const doubtful = place(channels);
    const block = this.#heap.allocate(bytes);
    if (this.#block) this.#heap.free(this.#block);
    this.#block = block;
    this.#channels = channels;
    this.#columns = columns;
    this.#perStripe = sums;
    [this.mean, this.variance, this.invStd, this.dGamma, this.dBeta] = c8.map((at) => block + at) as [
      number,
      number,
      number,
      number,
      number,
    ];
    [this.first, this.second] = k8.map((at) => block + at) as [number, number];
    [this.gamma, this.beta, this.pivot] = c4.map((at) => block + at) as [number, number, number];
    this.coefficients = block + coefficients;
    this.columnPivot = block + columnPivot;
    this.columnCoefficients = block + columnCoefficients;
    this.scratch = block + scratch;
    this.doubtful = block + doubtful;
    return this;
  }
}

function checkBytes(shape: readonly number[], length: number): void {
  if (length * 4 > MAX_BYTES) throw tooLarge("tensor", shape, length * 4, MAX_BYTES);
}

/** A float32 tensor in wasm memory, which calls read and write without copying. Made by `tensor`, freed by `dispose`. */
export class Tensor {
  /** Dimensions in memory order, e.g. [N, C, H, W]. */
  readonly shape: readonly number[];
  readonly #heap: Heap;
  readonly #length: number;
  #pointer: number;
  #data: Float32Array | undefined;

  /** For this library's own use: leaves the elements as they are in memory. */
  constructor(heap: Heap, shape: readonly number[], length: number) {
    checkBytes(shape, length);
    this.shape = Object.freeze([...shape]);
    this.#heap = heap;
    this.#length = length;
    this.#pointer = heap.allocate(staggered(length * 4));
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
   * when memory grows, views taken earlier become empty. Throws BatchNormError "disposed".
   */
  get data(): Float32Array {
    const start = this.pointer / 4;
    if (this.#data?.buffer !== this.#heap.f32.buffer) this.#data = this.#heap.f32.subarray(start, start + this.#length);
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
let threadsReason = "init was not asked for more";

/** The heap of tensors and of calls on plain arrays; made on first use. */
export function defaultHeap(): WasmHeap {
  current ??= new WasmHeap(kernelBuild());
  return current;
}

export interface InitOptions {
  /** A build of the kernels that the host has compiled; with `threads`, one for shared memory. */
  module?: WebAssembly.Module;
  /** Threads that calls on tensors shall use, the caller's included; "auto": as many as there are processors. Default 1. */
  threads?: number | "auto";
}

let warned = false;

/** How many threads there shall be, and why. */
async function countThreads(asked: number | "auto" | undefined): Promise<{ threads: number; reason: string }> {
  if (asked === undefined) return { threads: 1, reason: "init was not asked for more" };
  if (asked === 1) return { threads: 1, reason: "init was asked for 1" };
  if (!sharedMemory()) {
    if (!warned) console.warn(oneThreadWarning());
    warned = true;
    return { threads: 1, reason: NO_SHARED_MEMORY };
  }
  if (asked !== "auto") return { threads: asked, reason: `init was asked for ${asked}` };
  const threads = Math.min(await processors(), MAX_THREADS);
  return { threads, reason: `"auto": the engine reports ${threads} processors` };
}

function newHeap(build: Build, shared: boolean): WasmHeap {
  try {
    return new WasmHeap(build, { shared });
  } catch (error) {
    if (!(error instanceof WebAssembly.LinkError)) throw error;
    const kind = shared ? "shared memory, for several threads" : "memory of one thread";
    throw wrongKind("module", `a build that imports ${kind}`, build.module);
  }
}

/**
 * Compiles the kernels ahead of first use, off the main thread, and starts a pool where `threads` asks for one. Without
 * either it is never needed: everything compiles itself on first use. With an option, what is made from then on lies in
 * a new memory, and the pool before is disposed of; tensors made earlier stay usable, on one thread.
 *
 * Calls stay synchronous, and the caller takes a share. Results are the same bits for every number of threads. In a page
 * that is not cross-origin isolated there is one warning and one thread.
 *
 * Throws TypeError and RangeError for wrong options, BatchNormError "thread" where a worker does not start.
 */
export async function init(options: InitOptions = {}): Promise<void> {
  checkKeys("init options", options, ["module", "threads"]);
  const { threads, reason } = await countThreads(threadsOption(options.threads, MAX_THREADS));
  const shared = threads > 1;
  const build = await compileAhead(options.module, shared ? "shared" : "own");
  if (!options.module && options.threads === undefined && current) return;
  const heap = newHeap(build, shared);
  const pool = shared ? await Pool.start(build.module, heap.memory, heap.kernels.exports, threads) : undefined;
  await dispose();
  heap.kernels.pool = pool;
  current = heap;
  threadsReason = reason;
}

/** Ends the pool's threads. Everything goes on with one thread; without a pool, nothing happens. */
export async function dispose(): Promise<void> {
  const pool = current?.kernels.pool;
  if (!current || !pool) return;
  current.kernels.pool = undefined;
  threadsReason = "dispose() ended the pool";
  await pool.dispose();
}

/** What calls run on: which build of the kernels, on how many threads, and why. */
export function info(): { build: Build["name"]; buildReason: string; threads: number; threadsReason: string } {
  const { build, kernels } = defaultHeap();
  return { build: build.name, buildReason: build.reason, threads: kernels.pool?.threads ?? 1, threadsReason };
}

/**
 * A float32 tensor in wasm memory, of `data` or zeros. Rank 0 and up; at most 4 GiB. Throws RangeError for a wrong shape
 * or length, TypeError for other data, BatchNormError "out-of-memory".
 */
export function tensor(shape: readonly number[], data?: Float32Array | readonly number[]): Tensor {
  const length = sizeOf("tensor", shape);
  checkBytes(shape, length);
  if (data !== undefined) {
    if (!(data instanceof Float32Array || (Array.isArray(data) && data.every((v) => typeof v === "number"))))
      throw wrongKind("data", "a Float32Array or an array of numbers", data);
    if (data.length !== length) throw wrongLength("data", shape, data.length);
  }
  const heap = defaultHeap();
  // a view of this very memory would be emptied by growth
  const source = data instanceof Float32Array && inWasmMemory(data) ? data.slice() : data;
  const made = new Tensor(heap, shape, length);
  if (source) made.data.set(source);
  else made.data.fill(0);
  return made;
}

/** Refuses a tensor that is gone or lies in another memory. */
export function checkTensor(name: string, t: Tensor, heap: Heap): void {
  if (t.disposed) throw disposed(name);
  if (t.heap !== heap) throw otherMemory(name);
}
