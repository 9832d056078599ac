// How calls reach the elements of TF.js's tensors:
//
//   in place   the kernels are instantiated over the memory of TF.js's wasm backend, and a tensor is where it is
//   copied     every other backend: elements are read from it, and results written to it
//
// What "in place" takes (4.22.0: backend.wasm.asm.memory, _malloc, _free, dataIdMap, makeOutput) is TF.js's own business and
// may change, so a backend is probed when it is first met, and copied from where the probe finds anything else.

import { engine, getBackend, type KernelBackend, type TensorInfo, util } from "@tensorflow/tfjs-core";
import { HostHeap, info as infoOfDefault } from "../memory/heap.ts";
import { Tensor, type TensorLike } from "../memory/tensor.ts";
import type { Build } from "../wasm/module.ts";

/** The elements of one backend's tensors, all of them float32. */
export abstract class Access {
  abstract readonly memory: "in place" | "copied";
  /** Why it is that. */
  abstract readonly reason: string;
  abstract readonly build: Build["name"];
  protected readonly backend: KernelBackend;

  constructor(backend: KernelBackend) {
    this.backend = backend;
  }

  /** A tensor as the facade takes it, in another shape of as many elements. */
  abstract operand(t: TensorInfo, shape: readonly number[]): TensorLike;

  /** What the facade returned, as a tensor of the backend. */
  abstract adopt(result: TensorLike, shape: readonly number[]): TensorInfo;

  /** A tensor's elements; of the cpu backend its own, which must not be written. */
  read({ dataId }: TensorInfo): Float32Array {
    const values = this.backend.readSync(dataId) as Float32Array | Int32Array | Uint8Array;
    // the cpu backend's cast of integers to float32 changes the name of their type alone
    return values instanceof Float32Array ? values : Float32Array.from(values);
  }

  /** A tensor of values. */
  write(values: Float32Array, shape: readonly number[]): TensorInfo {
    return { dataId: this.backend.write(values, [...shape], "float32"), shape: [...shape], dtype: "float32" };
  }
}

/** What we know of TF.js's wasm backend, as far as it is there. */
interface WasmBackend {
  readonly wasm?: {
    readonly asm?: { readonly memory?: unknown };
    /** In the build with threads, whose memory is an import. */
    readonly wasmMemory?: unknown;
    readonly _malloc?: unknown;
    readonly _free?: unknown;
  };
  readonly dataIdMap?: { get(dataId: object): { readonly memoryOffset?: unknown } | undefined };
  makeOutput?(shape: readonly number[], dtype: "float32", memoryOffset: number): TensorInfo;
}

/** A backend's tensors where they are. */
class InPlace extends Access {
  readonly memory = "in place";
  readonly reason = "the kernels run on the memory of TF.js's wasm backend";
  readonly #heap: HostHeap;
  readonly #internal: Required<WasmBackend>;

  constructor(backend: KernelBackend & Required<WasmBackend>, heap: HostHeap) {
    super(backend);
    this.#internal = backend;
    this.#heap = heap;
  }

  get build(): Build["name"] {
    return this.#heap.build.name;
  }

  override operand(t: TensorInfo, shape: readonly number[]): Tensor {
    // asking for it also fetches what lies with another backend
    const pointer = this.#internal.dataIdMap.get(t.dataId)?.memoryOffset as number;
    this.#heap.refresh();
    return new Tensor(this.#heap, shape, util.sizeFromShape(t.shape), "float32", pointer);
  }

  /** TF.js takes the memory over, and frees it. */
  override adopt(result: TensorLike, shape: readonly number[]): TensorInfo {
    return this.#internal.makeOutput([...shape], "float32", (result as Tensor).pointer);
  }
}

/** A backend's tensors as arrays. */
class Copied extends Access {
  readonly memory = "copied";
  readonly reason: string;

  constructor(backend: KernelBackend, reason: string) {
    super(backend);
    this.reason = reason;
  }

  get build(): Build["name"] {
    return infoOfDefault().build;
  }

  override operand(t: TensorInfo, shape: readonly number[]): TensorLike {
    return { data: this.read(t), shape };
  }

  override adopt({ data }: TensorLike, shape: readonly number[]): TensorInfo {
    return this.write(data, shape);
  }
}

const PROBE = [1.5, -2.25, 1e-3];

/** A heap on the backend's memory, or why there is none. */
function probe(backend: WasmBackend): HostHeap | string {
  const { wasm, dataIdMap, makeOutput } = backend;
  if (!wasm) return "the backend has no memory of WebAssembly";
  const memory = [wasm.wasmMemory, wasm.asm?.memory].find((m) => m instanceof WebAssembly.Memory);
  const { _malloc: malloc, _free: free } = wasm;
  if (!memory) return "the backend does not show its memory";
  if (typeof malloc !== "function" || typeof free !== "function") return "the backend does not show its allocator";
  if (!dataIdMap || !makeOutput) return "the backend does not show where its tensors are";
  const host = { malloc: (bytes: number) => malloc(bytes) as number, free: (pointer: number) => void free(pointer) };
  try {
    return new HostHeap(memory, host);
  } catch (error) {
    if (!(error instanceof WebAssembly.LinkError)) throw error;
    return `the kernels do not fit the backend's memory: ${error.message}`;
  }
}

/** Whether a tensor that the backend writes is found in the heap. */
function finds(heap: HostHeap, backend: KernelBackend & WasmBackend): boolean {
  const dataId = backend.write(Float32Array.from(PROBE), [PROBE.length], "float32");
  const offset = backend.dataIdMap?.get(dataId)?.memoryOffset;
  heap.refresh();
  const at = typeof offset === "number" ? offset / 4 : Number.NaN;
  const found = PROBE.every((value, i) => heap.f32[at + i] === Math.fround(value));
  backend.disposeData(dataId);
  return found;
}

const known = new WeakMap<KernelBackend, Access>();

/** How to reach a backend's tensors; found out once. */
export function accessTo(backend: KernelBackend): Access {
  let access = known.get(backend);
  if (!access) {
    const heap = probe(backend as WasmBackend);
    if (typeof heap === "string") access = new Copied(backend, heap);
    else if (finds(heap, backend)) access = new InPlace(backend as KernelBackend & Required<WasmBackend>, heap);
    else access = new Copied(backend, "the backend's tensors are not where its memory says they are");
    known.set(backend, access);
  }
  return access;
}

export interface Info {
  /** TF.js's name of its current backend. */
  readonly backend: string;
  /** Whether tensors are worked on where they are, or their elements copied. */
  readonly memory: "in place" | "copied";
  /** Why it is that. */
  readonly reason: string;
  /** Which kernels run. */
  readonly build: Build["name"];
}

/** How tensors of TF.js's current backend are reached. */
export function info(): Info {
  const { memory, reason, build } = accessTo(engine().backend);
  return { backend: getBackend(), memory, reason, build };
}
