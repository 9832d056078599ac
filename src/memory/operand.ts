// Operands: what calls take and return, how it is checked, and where the kernels find it. A tensor lies in wasm memory
// and is worked on in place. A plain array passes through wasm memory tile by tile, so that little memory is
// needed however large it is:
//
//   array   | tile 0 | tile 1 | tile 2 | …        planar: some channels of every sample; interleaved: a stripe of rows
//                 ↓ load       ↑ unload
//   memory  |________|                            of WebAssembly, small enough for the processor's cache
//
// Kernels count channels and rows from the tensor's first, so they are given the address where the tensor would begin if all
// of it were there: base = memory − begin of the tile (mod 2³²).

import { BYTES, bitsOf, type Data, type Dtype, is16Bit, newData } from "../tensor/dtype.ts";
import { type Geometry, sizeOf } from "../tensor/shape.ts";
import type { PlainTensor } from "../tensor/types.ts";
import type { Kernels, Plan, Range } from "../wasm/kernels.ts";
import { operandDtype } from "./guards.ts";
import { defaultHeap, type Heap, inWasmMemory } from "./heap.ts";
import { type AnyTensor, Tensor } from "./tensor.ts";
import { oneRun, Room, type Runs } from "./transfer.ts";

/** The heap that a call works in: that of the first tensor among its operands, or the default one. */
export const heapOf = (...values: readonly (AnyTensor | undefined)[]): Heap =>
  values.find((value) => value instanceof Tensor)?.heap ?? defaultHeap();

/** A plain array's copy in wasm memory, which the caller owns. */
function stage(value: PlainTensor<Data>, heap: Heap, dtype: Dtype): Tensor<Dtype> {
  const staged = new Tensor(heap, value.shape, value.data.length, dtype);
  (bitsOf(staged.data) as Float32Array).set(bitsOf(value.data));
  return staged;
}

/**
 * An operand as the kernels see it. `tiles` cover it, in units of its plan: planar channels, interleaved stripes. After
 * `load(tile)` a kernel may read and write the tile.
 *
 * Tensors of float32 and float64 are worked on where they are, as one tile. Everything else passes through memory, and 16-bit
 * elements are widened and rounded on the way. In a call on 16-bit elements some operands may be float32: what is not a
 * result is not rounded.
 */
export class KernelOperand {
  readonly heap: Heap;
  readonly g: Geometry;
  readonly kernels: Kernels;
  #tiles: readonly Range[] | undefined;
  /** Type of its own elements. */
  readonly #dtype: Dtype;
  readonly #value: AnyTensor;
  readonly #offset: number;
  /** Address of the tensor where it is worked on in place. */
  readonly #pointer: number;
  /** Room for a tile, allocated for the first one. */
  #room: Room | undefined;
  readonly #tiled: boolean;
  /** Type of the call's elements. */
  readonly #callDtype: Dtype;
  #loaded: Range | undefined;

  /** The elements of `value` from `offset` on that the geometry covers; `dtype` is the call's. */
  constructor(heap: Heap, value: AnyTensor, g: Geometry, dtype: Dtype, offset = 0) {
    this.heap = heap;
    this.g = g;
    this.kernels = dtype === "float64" ? heap.kernels64 : heap.kernels;
    this.#dtype = is16Bit(dtype) ? (operandDtype(value, dtype) ?? dtype) : dtype;
    this.#value = value;
    this.#offset = offset;
    this.#callDtype = dtype;
    this.#tiled = !(value instanceof Tensor) || is16Bit(dtype);
    this.#pointer = value instanceof Tensor && !this.#tiled ? value.pointer + offset * BYTES[dtype] : 0;
  }

  /** The plan of its geometry, as the workspace holds it until another geometry is planned. */
  get plan(): Plan {
    return this.heap.workspace.plan(this.g, this.kernels.bytes, this.#tiled);
  }

  get tiles(): readonly Range[] {
    this.#tiles ??= tilesOf(this.plan);
    return this.#tiles;
  }

  /** Tiles by the channels that they hold: all sums of a channel are needed before its map. */
  get independentTiles(): readonly (readonly Range[])[] {
    const { tiles } = this;
    return tiles.length > 1 && this.plan.planar ? tiles.map((tile) => [tile]) : [tiles];
  }

  /** Brings a tile to memory, if it is not there. Returns the address for kernels, which may lie outside of memory. */
  load(tile: Range): number {
    if (!this.#tiled) return this.#pointer;
    const { plan } = this;
    this.#room ??= new Room(this.heap, this.#callDtype, roomOf(plan));
    if (this.#loaded !== tile)
      this.#room.load(bitsOf(this.#value.data), this.#dtype, lengthOf(plan, tile), this.#runs(plan, tile));
    this.#loaded = tile;
    return this.#room.pointer - beginOf(plan, tile) * this.kernels.bytes;
  }

  /** The address that a kernel writes this operand to: that of its source, if `unload` is to follow, else the tensor's. */
  target(source: number): number {
    return this.#tiled ? source : this.#pointer;
  }

  /** Copies a tile of this operand, which a kernel has written since, to its place in `y`. */
  unload(y: KernelOperand, tile: Range): void {
    if (!this.#tiled) return;
    const { plan } = this;
    this.#room?.store(bitsOf(y.#value.data), y.#dtype, lengthOf(plan, tile), y.#runs(plan, tile));
    this.#loaded = undefined;
  }

  /** Runs of a tile: planar, its channels in every sample. */
  #runs(plan: Plan, tile: Range): Runs {
    if (!plan.planar) return oneRun(this.#offset + beginOf(plan, tile), lengthOf(plan, tile));
    const { inner, outer, channels } = this.g;
    const run = (tile.end - tile.begin) * inner;
    return (copy) => {
      for (let n = 0; n < outer; n++)
        copy(n * plan.pitch * inner, this.#offset + (n * channels + tile.begin) * inner, run);
    };
  }

  dispose(): void {
    this.#room?.dispose();
    this.#room = undefined;
  }
}

/** Elements that a tile has at most. */
const roomOf = ({ planar, pitch, outer, inner, stripe, columns, length }: Plan): number =>
  planar ? pitch * outer * inner : Math.min(stripe * columns, length);

/** A whole tensor is one tile; otherwise tiles are as many channels as the pitch says, or stripes. */
function tilesOf({ planar, channels, stripes, pitch, tiled }: Plan): Range[] {
  const end = planar ? channels : stripes;
  if (!tiled) return [{ begin: 0, end }];
  const step = planar ? pitch : 1;
  return Array.from({ length: Math.ceil(end / step) }, (_, i) => ({
    begin: i * step,
    end: Math.min((i + 1) * step, end),
  }));
}

/** First element of a tile: planar, of its channels in the first sample. */
const beginOf = ({ planar, inner, stripe, columns }: Plan, { begin }: Range): number =>
  begin * (planar ? inner : stripe * columns);

/** Elements of a tile in memory, from the first to the last. */
function lengthOf(plan: Plan, tile: Range): number {
  if (!plan.planar) return Math.min(tile.end * plan.stripe * plan.columns, plan.length) - beginOf(plan, tile);
  return ((plan.outer - 1) * plan.pitch + tile.end - tile.begin) * plan.inner;
}

type Value = AnyTensor | undefined;

type OperandOf<V extends Value> = V extends AnyTensor ? KernelOperand : undefined;

/**
 * The operands of one call and what it has to free. All are worked on in one way: where a tensor of float32 or float64 is
 * among them, plain arrays are copied to wasm memory whole; otherwise everything passes through tiles.
 */
export class CallScope {
  readonly heap: Heap;
  readonly dtype: Dtype;
  readonly #direct: boolean;
  readonly #own: { dispose(): void }[] = [];
  /** Values that the call works on elsewhere. */
  #replacements: Map<AnyTensor, AnyTensor> | undefined;

  constructor(heap: Heap, dtype: Dtype, values: readonly (AnyTensor | undefined)[]) {
    this.heap = heap;
    this.dtype = dtype;
    this.#direct = !is16Bit(dtype) && values.some((value) => value instanceof Tensor);
    // a view of wasm memory would be emptied by growth, which the call may bring about
    for (const value of values)
      if (value && !(value instanceof Tensor) && inWasmMemory(value.data)) {
        this.#replacements ??= new Map();
        this.#replacements.set(value, { ...value, data: value.data.slice() });
      }
  }

  /** Has it disposed of at the end of the call. */
  disposeAfter<R extends { dispose(): void }>(made: R): R {
    this.#own.push(made);
    return made;
  }

  /** A value as the call works on it. */
  value(value: AnyTensor): AnyTensor {
    const known = this.#replacements?.get(value) ?? value;
    if (!this.#direct || known instanceof Tensor) return known;
    const staged = this.disposeAfter(stage(known, this.heap, this.dtype));
    this.#replacements ??= new Map();
    this.#replacements.set(value, staged);
    return staged;
  }

  /** Has `use` work on the elements of up to four values from `offset` on that a geometry covers. */
  withOperands<A extends Value, B extends Value = undefined, C extends Value = undefined, D extends Value = undefined>(
    [a, b, c, d]: readonly [a: A, b?: B, c?: C, d?: D],
    g: Geometry,
    offset: number,
    use: (a: OperandOf<A>, b: OperandOf<B>, c: OperandOf<C>, d: OperandOf<D>) => void,
  ): void {
    const p = this.#operand(a, g, offset);
    const q = this.#operand(b, g, offset);
    const r = this.#operand(c, g, offset);
    const s = this.#operand(d, g, offset);
    try {
      use(p as OperandOf<A>, q as OperandOf<B>, r as OperandOf<C>, s as OperandOf<D>);
    } finally {
      p?.dispose();
      q?.dispose();
      r?.dispose();
      s?.dispose();
    }
  }

  #operand(value: Value, g: Geometry, offset: number): KernelOperand | undefined {
    return value && new KernelOperand(this.heap, this.value(value), g, this.dtype, offset);
  }

  /** A result before it is computed: `out`, or something new in the kind of `like`. */
  allocateResult(out: AnyTensor | undefined, like: AnyTensor): AnyTensor {
    if (out instanceof Tensor) return out;
    if (this.#direct || (!out && like instanceof Tensor)) return this.#tensor(like);
    return out ?? this.#array(like as PlainTensor<Data>);
  }

  #array(like: PlainTensor<Data>): PlainTensor<Data> {
    // by its shape: a view of wasm memory may have been emptied by growth
    const made = { data: newData(this.dtype, sizeOf("like", like.shape), like.data), shape: [...like.shape] };
    return like.dtype ? { ...made, dtype: like.dtype } : made;
  }

  /** What is derived from a value on the way to results, in the precision of the arithmetic. */
  scratch(like: AnyTensor): AnyTensor {
    if (!is16Bit(this.dtype)) return this.allocateResult(undefined, like);
    return { data: new Float32Array(like.data.length), shape: like.shape };
  }

  /** Memory that lasts as long as the call, unless it becomes its result. */
  #tensor(like: AnyTensor): Tensor<Dtype> {
    const { length } = like instanceof Tensor ? like : like.data;
    return this.disposeAfter(new Tensor(this.heap, like.shape, length, this.dtype));
  }

  /** The computed target as the caller gets it. */
  result(target: AnyTensor, out: AnyTensor | undefined, like: AnyTensor): AnyTensor {
    if (!(target instanceof Tensor) || target === out) return target;
    const kind = out ?? like;
    if (kind instanceof Tensor) {
      this.#own.splice(this.#own.indexOf(target), 1);
      return target;
    }
    const array = out ?? this.#array(like as PlainTensor<Data>);
    (bitsOf(array.data) as Float32Array).set(bitsOf(target.data) as Float32Array);
    return array;
  }

  dispose(): void {
    for (const made of this.#own) made.dispose();
  }
}
