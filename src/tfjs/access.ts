// Access to the elements of TF.js's tensors, in one of three ways:
//
//   in place   the kernels run on the memory of TF.js's wasm backend and read tensors where they are
//   copied     elements are in JavaScript's memory (cpu), or a short copy away (wasm, if access in place fails)
//   composed   elements stay where they are, on a GPU or in another process, and TF.js's own operations compute
//
// Which way it is depends on internals of TF.js (4.22.0: backend.wasm.asm.memory, _malloc, _free, dataIdMap, makeOutput;
// backend.data), which may change. So each backend is probed once. "composed" needs no internals, and takes whatever the
// probes do not recognise.

import {
  engine,
  getBackend,
  getKernel,
  Identity,
  type KernelBackend,
  type KernelConfig,
  type KernelFunc,
  type TensorInfo,
  util,
} from "@tensorflow/tfjs-core";
import { HostHeap, kernelInfo } from "../memory/heap.ts";
import { Tensor, type TensorLike } from "../memory/tensor.ts";
import type { BuildName } from "../wasm/module.ts";

/** Access to the elements of one backend's float32 tensors. */
export abstract class Access {
  abstract readonly memory: Info["memory"];
  /** Why tensors are accessed in this way. */
  abstract readonly reason: string;
  abstract readonly build: Info["build"];
  /** The heap over the backend's memory, if tensors are accessed in place. */
  readonly heap?: HostHeap;
  protected readonly backend: KernelBackend;

  constructor(backend: KernelBackend) {
    this.backend = backend;
  }

  /** Returns a backend's tensor as an argument for src/ops, in a shape with the same number of elements. */
  abstract operand(t: TensorInfo, shape: readonly number[]): TensorLike;

  /** Turns a result of src/ops into a tensor of the backend. The backend then owns the memory of a result in place. */
  abstract adopt(result: TensorLike, shape: readonly number[]): TensorInfo;

  /** Calls `save`, which clones tensors to keep them. On every backend but wasm, a clone shares their elements. */
  sharingClones(save: () => void): void {
    save();
  }

  /** Returns a tensor's elements. Do not write to them: the array of the cpu backend is the tensor's own. */
  read({ dataId }: TensorInfo): Float32Array {
    const values = this.backend.readSync(dataId) as Float32Array | Int32Array | Uint8Array;
    // the cpu backend casts integers to float32 by changing the dtype only; the array stays an Int32Array
    return values instanceof Float32Array ? values : Float32Array.from(values);
  }

  /** Makes a float32 tensor of the backend with these values. */
  write(values: Float32Array, shape: readonly number[]): TensorInfo {
    return { dataId: this.backend.write(values, [...shape], "float32"), shape: [...shape], dtype: "float32" };
  }
}

/** The internals of TF.js's wasm module that access in place needs. Every one may be absent. */
interface WasmModule {
  readonly asm?: { readonly memory?: unknown };
  /** The memory in TF.js's build with threads, where the module imports it instead of exporting it. */
  readonly wasmMemory?: unknown;
  readonly _malloc?: unknown;
  readonly _free?: unknown;
}

/** The internals of TF.js's wasm backend that access in place needs. Every one may be absent. */
interface WasmBackend {
  readonly wasm?: WasmModule;
  readonly dataIdMap?: { get(dataId: object): { readonly memoryOffset?: unknown } | undefined };
  makeOutput?(shape: readonly number[], dtype: "float32", memoryOffset: number): TensorInfo;
}

/** Access to tensors in the memory of TF.js's wasm backend, without copies. */
class InPlace extends Access {
  readonly memory = "in place";
  readonly reason = "the kernels run on the memory of TF.js's wasm backend";
  override readonly heap: HostHeap;
  readonly #internal: Required<WasmBackend>;
  /** A kernel like Identity whose output shares the elements of its input. */
  readonly #share: KernelFunc = ({ inputs }) => {
    const { dataId, shape, dtype } = inputs.x as TensorInfo;
    this.backend.incRef(dataId);
    return { dataId, shape, dtype };
  };

  constructor(backend: KernelBackend & Required<WasmBackend>, heap: HostHeap) {
    super(backend);
    this.#internal = backend;
    this.heap = heap;
  }

  get build(): BuildName | "given" {
    return this.heap.build.name;
  }

  override operand(t: TensorInfo, shape: readonly number[]): Tensor {
    // get() also moves the elements to this backend if another one holds them
    const pointer = this.#internal.dataIdMap.get(t.dataId)?.memoryOffset as number;
    this.heap.refresh();
    return new Tensor(this.heap, shape, util.sizeFromShape(t.shape), "float32", pointer);
  }

  override adopt(result: TensorLike, shape: readonly number[]): TensorInfo {
    return this.#internal.makeOutput([...shape], "float32", (result as Tensor).pointer);
  }

  /**
   * Calls `save` while a clone shares its tensor's elements, as on other backends. TF.js's wasm backend would copy them,
   * which takes a quarter of a training step (docs/guides/tfjs-backends.md).
   */
  override sharingClones(save: () => void): void {
    // a build of TF.js without gradients may lack the kernel, and then `save` needs none
    const identity: Partial<KernelConfig> = getKernel(Identity, engine().backendName) ?? {};
    const { kernelFunc } = identity;
    // registering another kernel and then this one again would take 3 µs
    identity.kernelFunc = this.#share;
    try {
      save();
    } finally {
      identity.kernelFunc = kernelFunc as KernelFunc;
    }
  }
}

/** Access to tensors by copies of their elements. */
class Copied extends Access {
  readonly memory: Info["memory"] = "copied";
  readonly reason: string;

  constructor(backend: KernelBackend, reason: string) {
    super(backend);
    this.reason = reason;
  }

  get build(): Info["build"] {
    return kernelInfo().build;
  }

  override operand(t: TensorInfo, shape: readonly number[]): TensorLike {
    return { data: this.read(t), shape };
  }

  override adopt({ data }: TensorLike, shape: readonly number[]): TensorInfo {
    return this.write(data, shape);
  }
}

/** Access to tensors that TF.js's operations compute with. Their elements can be copied, which waits for the device. */
class Composed extends Copied {
  override readonly memory = "composed";

  override get build(): Info["build"] {
    return "none";
  }
}

/**
 * Elements of the tensor that a probe looks for: a sequence of three that is improbable in memory at a wrong address.
 */
const PROBE = [1.5, -2.25, 1e-3];

/** Returns a heap on the backend's memory, or the reason why there is none. */
function probe(wasm: WasmModule, { dataIdMap, makeOutput }: WasmBackend): HostHeap | string {
  const memory = [wasm.wasmMemory, wasm.asm?.memory].find((candidate) => candidate instanceof WebAssembly.Memory);
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

/**
 * Writes a tensor with the backend, and returns whether its elements are in the heap at the address that TF.js tells.
 */
function isInHeap(heap: HostHeap, backend: KernelBackend & WasmBackend): boolean {
  const dataId = backend.write(Float32Array.from(PROBE), [PROBE.length], "float32");
  const offset = backend.dataIdMap?.get(dataId)?.memoryOffset;
  heap.refresh();
  const index = typeof offset === "number" ? offset / 4 : Number.NaN;
  const found = PROBE.every((value, i) => heap.f32[index + i] === Math.fround(value));
  backend.disposeData(dataId);
  return found;
}

/** Writes a tensor with the backend, and returns whether the backend computes with the array itself. */
function isInJavaScript(backend: KernelBackend & { data?: { get?(dataId: object): { values?: unknown } } }): boolean {
  const values = Float32Array.from(PROBE);
  const dataId = backend.write(values, [PROBE.length], "float32");
  const found = backend.data?.get?.(dataId)?.values === values;
  backend.disposeData(dataId);
  return found;
}

function accessOf(backend: KernelBackend & WasmBackend): Access {
  const { wasm } = backend;
  if (wasm) {
    const heap = probe(wasm, backend);
    if (typeof heap === "string") return new Copied(backend, heap);
    if (isInHeap(heap, backend)) return new InPlace(backend as KernelBackend & Required<WasmBackend>, heap);
    return new Copied(backend, "the backend's tensors are not where its memory says they are");
  }
  if (isInJavaScript(backend)) return new Copied(backend, "the backend's tensors are arrays of JavaScript");
  return new Composed(backend, "the backend's tensors are neither arrays of JavaScript nor in memory of WebAssembly");
}

const accesses = new WeakMap<KernelBackend, Access>();

/** Returns the access to a backend's tensors. The first call for a backend probes it. */
export function accessTo(backend: KernelBackend): Access {
  let access = accesses.get(backend);
  if (!access) {
    access = accessOf(backend);
    accesses.set(backend, access);
  }
  return access;
}

/** How calls access the tensors of TF.js's current backend, as `info` returns it. */
export interface Info {
  /** TF.js's name of its current backend. */
  readonly backend: string;
  /**
   * "in place": the kernels read and write TF.js's tensors directly. "copied": elements are copied in and out.
   * "composed": TF.js's own operations compute, where the elements are.
   */
  readonly memory: "in place" | "copied" | "composed";
  /** Why tensors are accessed in this way, as a text for people. */
  readonly reason: string;
  /** The build of the kernels that runs: "simd", or "relaxed" with relaxed SIMD; "none" where memory is "composed". */
  readonly build: BuildName | "given" | "none";
  /** The number of threads that calls on tensors of 131,072 elements and more run on. */
  readonly threads: number;
  /** The reason for the number of threads, as a text for people. */
  readonly threadsReason: string;
}

/** The reason why copies of tensors have one thread. */
export const COPIED = "calls on copies of TF.js's tensors run on the caller's thread";

/** The reason why operations of TF.js have no thread of the pool. */
const DEVICE = "TF.js's own operations compute, on the backend's device";

/** Returns how calls access the tensors of TF.js's current backend, and why. */
export function info(): Info {
  const { memory, reason, build, heap } = accessTo(engine().backend);
  const threads = heap?.kernels.pool?.threads ?? 1;
  return {
    backend: getBackend(),
    memory,
    reason,
    build,
    threads,
    threadsReason: heap?.threadsReason ?? (memory === "composed" ? DEVICE : COPIED),
  };
}
