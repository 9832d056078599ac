// Operands: the arguments and results of calls, as the kernels see them. Kernels work on a Tensor in place, because it
// lies in wasm memory. A plain array passes through wasm memory tile by tile, so that a large array needs little
// memory:
//
//   array   | tile 0 | tile 1 | tile 2 | …        a stripe of rows; planar: some whole images, or channels of one image
//                 ↓ load       ↑ unload
//   memory  |________|                            of WebAssembly, small enough for the processor's cache
//
// Planar sums need all values of their channels, and so do maps that follow them at once. Their tiles are some channels
// of every image, one run of elements for each.
//
// Kernels count channels and rows from the first of the tensor. So they get the address where the tensor would begin if
// all of it were in memory: base = address of the tile − offset of the tile in the tensor (mod 2³²).

import { BYTES, bitsOf, type Data, type Dtype, is16Bit, newData } from "../tensor/dtype.ts";
import { type Geometry, sizeOf } from "../tensor/shape.ts";
import type { PlainTensor } from "../tensor/types.ts";
import type { Kernels, Plan, Range } from "../wasm/kernels.ts";
import { operandDtype } from "./guards.ts";
import { defaultHeap, type Heap, inWasmMemory } from "./heap.ts";
import { type AnyTensor, Tensor } from "./tensor.ts";
import { copyElements, oneRun, Room, type Runs } from "./transfer.ts";

/** Bytes of x in a piece whose derivative is computed and then summed: several tensors of it fit into a shared cache. */
const PIECE_BYTES = 1 << 19;

/** A part of an operand, in units of its plan: channels of a planar operand, or stripes of an interleaved one. */
export interface Tile extends Range {
  /** The images that a planar tile has the channels of. Undefined: all images. */
  readonly images?: Range;
}

/**
 * The largest number of elements of a tile of images, if a plane has no more: 256 KiB of float32. Tiles of two operands
 * fit into a second-level cache of 512 KiB. docs/concepts/numerics-measurements.md has the measurements.
 */
const IMAGE_TILE = 65536;

/** Returns the heap that a call works in: that of the first Tensor among its operands, or the default heap. */
export function heapOf(...values: readonly (AnyTensor | undefined)[]): Heap {
  for (const value of values) if (Tensor.is(value)) return value.heap;
  return defaultHeap();
}

/** Returns a value, or a copy if it is a view of wasm memory, which a call would empty if it grows the memory. */
export const unlessView = (value: AnyTensor): AnyTensor =>
  !(value instanceof Tensor) && inWasmMemory(value.data) ? { ...value, data: value.data.slice() } : value;

/** Returns a copy of a plain array in wasm memory, as a Tensor that the caller disposes of. */
function stage(value: PlainTensor<Data>, heap: Heap, dtype: Dtype): Tensor<Dtype> {
  const staged = new Tensor(heap, value.shape, value.data.length, dtype);
  copyElements(value.data, staged.data);
  return staged;
}

/**
 * An operand as the kernels see it. Its `tiles` cover it, in units of the plan: channels if it is planar, stripes if
 * it is interleaved. After `load(tile)` a kernel may read and write the tile, by the plan `planOf(tile)`.
 *
 * Kernels work on Tensors of float32 and float64 in place, as one tile. All other operands pass through wasm memory,
 * and 16-bit elements are widened and rounded on the way. In a call on 16-bit elements, operands that are not results
 * may be float32, which is not rounded.
 */
export class KernelOperand {
  readonly heap: Heap;
  readonly geometry: Geometry;
  /** The phases for the type in which the call computes. */
  readonly kernels: Kernels;
  #tiles: readonly Tile[] | undefined;
  /** The type of this operand's elements. */
  readonly #dtype: Dtype;
  readonly #value: AnyTensor;
  /** The index of the first element in the value. */
  readonly #offset: number;
  /** The address of the first element if kernels work in place, else 0. */
  readonly #pointer: number;
  /** The room for one tile, allocated for the first tile, which is the largest. */
  #room: Room | undefined;
  /** Whether the operand passes through wasm memory tile by tile. */
  readonly #tiled: boolean;
  /** The type of the call's elements. */
  readonly #callDtype: Dtype;
  /** The tile whose elements are in the room. */
  #loaded: Tile | undefined;

  /**
   * Covers as many elements of `value` as the geometry has, from index `offset` on. `callDtype` is the type of the
   * call.
   */
  constructor(heap: Heap, value: AnyTensor, geometry: Geometry, callDtype: Dtype, offset = 0) {
    this.heap = heap;
    this.geometry = geometry;
    this.kernels = callDtype === "float64" ? heap.kernels64 : heap.kernels;
    this.#dtype = is16Bit(callDtype) ? (operandDtype(value, callDtype) ?? callDtype) : callDtype;
    this.#value = value;
    this.#offset = offset;
    this.#callDtype = callDtype;
    this.#tiled = !(value instanceof Tensor) || is16Bit(callDtype);
    this.#pointer = this.#tiled ? 0 : (value as Tensor).pointer + offset * BYTES[callDtype];
  }

  /** The plan of this operand's geometry. It is valid until the workspace plans another geometry. */
  get plan(): Plan {
    return this.heap.workspace.plan(this.geometry, this.kernels, this.#tiled);
  }

  /**
   * Returns the plan of a tile's images. Its vectors are those of `plan`, since they depend on the channels alone. It is
   * valid until the workspace plans another geometry.
   */
  planOf({ images }: Tile): Plan {
    if (!images) return this.plan;
    const geometry = { ...this.geometry, outer: images.end - images.begin };
    return this.heap.workspace.plan(geometry, this.kernels, this.#tiled);
  }

  /** The tiles that cover the operand, for maps. */
  get tiles(): readonly Tile[] {
    const { planar, channels, stripes, tiled } = this.plan;
    this.#tiles ??=
      planar && tiled ? imageTiles(this.geometry) : divided(planar ? channels : stripes, tiled ? 1 : Infinity);
    return this.#tiles;
  }

  /**
   * Tiles that cover the operand, in lists that share no channel: blocks of channels that stay in cache, tiles of
   * channels, or all interleaved tiles. A map needs the sums of all tiles of its list.
   */
  get independentTiles(): readonly (readonly Tile[])[] {
    const { plan } = this;
    if (!plan.planar) return [this.tiles];
    // a pool divides the channels itself
    const block = this.kernels.pool && !this.#tiled ? plan.channels : plan.block;
    return divided(plan.channels, block).map((tile) => [tile]);
  }

  /** Divides tiles of a tensor in place into pieces that stay in cache. Only stripes of rows need it. */
  piecesOf(tiles: readonly Tile[]): readonly Tile[] {
    const { plan } = this;
    if (plan.planar || this.#tiled) return tiles;
    const threads = this.kernels.pool?.threads ?? 1;
    const stripes = Math.ceil(PIECE_BYTES / (plan.stripe * plan.columns * this.kernels.bytes)) * threads;
    return tiles.flatMap(({ begin, end }) => divided(end, stripes, begin));
  }

  /**
   * Copies a tile to wasm memory, if it is not there yet. Returns the address for kernels, which may lie outside of
   * memory.
   */
  load(tile: Tile): number {
    if (!this.#tiled) return this.#pointer;
    const plan = this.planOf(tile);
    const length = lengthOf(plan, tile);
    this.#room ??= new Room(this.heap, this.#callDtype, length);
    if (this.#loaded !== tile) {
      const array = bitsOf(this.#value.data);
      this.#room.place(array, this.#dtype, this.#first(plan, tile));
      this.#room.load(array, this.#dtype, length, this.#runs(plan, tile));
    }
    this.#loaded = tile;
    return this.#room.pointer - beginOf(plan, tile) * this.kernels.bytes;
  }

  /**
   * Returns the address for a kernel that writes this operand: that of its `source` if `unload` follows, else the
   * Tensor's.
   */
  target(source: number): number {
    return this.#tiled ? source : this.#pointer;
  }

  /** Copies a tile that a kernel has written to this operand's room to its place in `y`. In place, it does nothing. */
  unload(y: KernelOperand, tile: Tile): void {
    if (!this.#room) return;
    const plan = this.planOf(tile);
    this.#room.store(bitsOf(y.#value.data), y.#dtype, lengthOf(plan, tile), y.#runs(plan, tile));
    this.#loaded = undefined;
  }

  /** Returns the index of a tile's first element in the value. */
  #first(plan: Plan, tile: Tile): number {
    const { channels, inner } = this.geometry;
    return this.#offset + (tile.images?.begin ?? 0) * channels * inner + beginOf(plan, tile);
  }

  /** Returns the runs of a tile: one for each image if it has some of the channels, else one. */
  #runs(plan: Plan, tile: Tile): Runs {
    const { inner, channels } = this.geometry;
    const first = this.#first(plan, tile);
    if (plan.pitch === channels) return oneRun(first, lengthOf(plan, tile));
    const run = (tile.end - tile.begin) * inner;
    return (copy) => {
      for (let n = 0; n < plan.outer; n++) copy(n * plan.pitch * inner, first + n * channels * inner, run);
    };
  }

  /** Frees the room. */
  dispose(): void {
    this.#room?.dispose();
    this.#room = undefined;
  }
}

/** Returns tiles of a planar tensor that lie together in it: whole images, or channels of one image. */
function imageTiles({ outer, channels, inner }: Geometry): Tile[] {
  const parts = divided(channels, IMAGE_TILE / inner);
  return divided(outer, IMAGE_TILE / inner / channels).flatMap((images) => parts.map((part) => ({ ...part, images })));
}

/** Divides [from, end) into ranges of `step`, rounded down to at least 1. The last range may be shorter. */
function divided(end: number, step: number, from = 0): Range[] {
  const size = Math.max(Math.floor(step), 1);
  const ranges: Range[] = [];
  for (let begin = from; begin < end; begin += size) ranges.push({ begin, end: Math.min(begin + size, end) });
  return ranges;
}

/** Returns the index of a tile's first element in the tensor. */
const beginOf = ({ planar, inner, stripe, columns }: Plan, { begin }: Range): number =>
  begin * (planar ? inner : stripe * columns);

/** Returns the number of elements of a tile in memory, from the first to the last. */
function lengthOf(plan: Plan, tile: Range): number {
  if (!plan.planar) return Math.min(tile.end * plan.stripe * plan.columns, plan.length) - beginOf(plan, tile);
  return ((plan.outer - 1) * plan.pitch + tile.end - tile.begin) * plan.inner;
}

/** A value that a call may lack. */
type Value = AnyTensor | undefined;

/** The operand of a value, or undefined for a missing value. */
type OperandOf<V extends Value> = V extends AnyTensor ? KernelOperand : undefined;

/**
 * The operands of one call, and the memory that the call has to free. If a Tensor of float32 or float64 is among the
 * operands, the call works in place, and plain arrays are first copied to wasm memory. Otherwise all operands pass
 * through tiles.
 */
export class CallScope {
  readonly heap: Heap;
  readonly dtype: Dtype;
  /** Whether the call works in place. */
  readonly #inPlace: boolean;
  /** The objects to dispose of at the end of the call. */
  readonly #disposables: { dispose(): void }[] = [];
  /** Copies of the caller's values, which the call works on instead of these values. */
  #replacements: Map<AnyTensor, AnyTensor> | undefined;
  #sharedScratch: AnyTensor | undefined;

  constructor(heap: Heap, dtype: Dtype, values: readonly (AnyTensor | undefined)[]) {
    this.heap = heap;
    this.dtype = dtype;
    let inPlace = false;
    for (const value of values)
      if (value instanceof Tensor) inPlace = !is16Bit(dtype);
      else if (value) {
        const replacement = unlessView(value);
        if (replacement === value) continue;
        this.#replacements ??= new Map();
        this.#replacements.set(value, replacement);
      }
    this.#inPlace = inPlace;
  }

  /** Returns its argument, which the call disposes of at its end. */
  disposeAfter<R extends { dispose(): void }>(disposable: R): R {
    this.#disposables.push(disposable);
    return disposable;
  }

  /** Returns the Tensor or array that the call works on instead of `value`. It is often the value itself. */
  value(value: AnyTensor): AnyTensor {
    const current = this.#replacements?.get(value) ?? value;
    if (!this.#inPlace || current instanceof Tensor) return current;
    const staged = this.disposeAfter(stage(current, this.heap, this.dtype));
    this.#replacements ??= new Map();
    this.#replacements.set(value, staged);
    return staged;
  }

  /**
   * Calls `use` with the operands of up to four values: as many elements as the geometry has, from index `offset` on.
   */
  withOperands<A extends Value, B extends Value = undefined, C extends Value = undefined, D extends Value = undefined>(
    values: readonly [a: A, b?: B, c?: C, d?: D],
    geometry: Geometry,
    offset: number,
    use: (a: OperandOf<A>, b: OperandOf<B>, c: OperandOf<C>, d: OperandOf<D>) => void,
  ): void {
    const operands = values.map(
      (value) => value && new KernelOperand(this.heap, this.value(value), geometry, this.dtype, offset),
    ) as [OperandOf<A>, OperandOf<B>, OperandOf<C>, OperandOf<D>];
    try {
      use(...operands);
    } finally {
      for (const operand of operands) operand?.dispose();
    }
  }

  /** Returns the uninitialised destination of a result: `out`, or a new Tensor or array of the kind of `like`. */
  allocateResult(out: AnyTensor | undefined, like: AnyTensor): AnyTensor {
    if (out instanceof Tensor) return out;
    if (this.#inPlace || (!out && like instanceof Tensor)) return this.#tensor(like);
    return out ?? this.#array(like as PlainTensor<Data>);
  }

  /** Returns a new plain array of the kind and shape of `like`. */
  #array(like: PlainTensor<Data>): PlainTensor<Data> {
    // growth may have emptied a view of wasm memory, so its length may be 0
    const array = { data: newData(this.dtype, sizeOf("like", like.shape), like.data), shape: [...like.shape] };
    return like.dtype ? { ...array, dtype: like.dtype } : array;
  }

  /**
   * Returns an uninitialised value of the shape of `like` for an intermediate result, in the type of the arithmetic.
   */
  scratch(like: AnyTensor): AnyTensor {
    if (!is16Bit(this.dtype)) return this.allocateResult(undefined, like);
    return { data: new Float32Array(like.data.length), shape: like.shape };
  }

  /** Returns what `scratch` returns, but the same value in every call of it. */
  sharedScratch(like: AnyTensor): AnyTensor {
    this.#sharedScratch ??= this.scratch(like);
    return this.#sharedScratch;
  }

  /** Returns a new Tensor, which the call disposes of at its end unless it becomes the result. */
  #tensor(like: AnyTensor): Tensor<Dtype> {
    const { length } = like instanceof Tensor ? like : like.data;
    return this.disposeAfter(new Tensor(this.heap, like.shape, length, this.dtype));
  }

  /**
   * Returns the computed `target` in the form that the caller gets: in `out`, or as a Tensor or plain array of the kind
   * of `like`.
   */
  result(target: AnyTensor, out: AnyTensor | undefined, like: AnyTensor): AnyTensor {
    if (!(target instanceof Tensor) || target === out) return target;
    if ((out ?? like) instanceof Tensor) {
      this.#disposables.splice(this.#disposables.indexOf(target), 1);
      return target.own();
    }
    const array = out ?? this.#array(like as PlainTensor<Data>);
    copyElements(target.data, array.data);
    return array;
  }

  /** Frees the memory of the call. */
  dispose(): void {
    for (const disposable of this.#disposables) disposable.dispose();
  }
}
