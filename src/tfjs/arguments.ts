// Arguments of the operations on TF.js's tensors, and their checks.

import { cast, engine, Tensor, util } from "@tensorflow/tfjs-core";
import { disposed, wrongKind, wrongLength, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import { epsilonOption } from "../ops/options.ts";
import type { Layout } from "../tensor/types.ts";
import { type Access, accessTo } from "./access.ts";

/** The learnable parameters gamma and beta, which scale and shift the normalised x. */
export interface Scale {
  /** Factor of the normalised x, [C]. An absent gamma counts as ones. */
  gamma?: Tensor | null;
  /** Addend after the multiplication by gamma, [C]. An absent beta counts as zeros. */
  beta?: Tensor | null;
}

/** The mean and variance of every channel. */
export interface Statistics {
  /** Mean of every channel, [C]. */
  mean: Tensor;
  /** Biased variance of every channel, [C]. */
  variance: Tensor;
}

/** Options of batchNorm and, except for `mask`, of batchNormInference. */
export interface BatchNormOptions {
  /** The axis of the channels. Default −1, the last. */
  axis?: number;
  /** Added to the variance inside the square root. Default 1e-3, as in TF.js. */
  epsilon?: number;
  /**
   * Weight of every position, in x's shape without the axis of the channels: booleans, or numbers ≥ 0. A position with
   * weight 0 is masked: the statistics and the gradients are those of the data without it.
   */
  mask?: Tensor;
}

/** The shape and layout in which the functions of src/ops read a tensor of TF.js. */
export interface FacadeView {
  readonly shape: readonly number[];
  readonly layout: Layout;
  readonly channels: number;
}

/** Checked arguments of an operation. Every tensor but the mask is float32. */
export interface Prepared {
  readonly x: Tensor;
  readonly gamma: Tensor | undefined;
  readonly beta: Tensor | undefined;
  readonly mask: Tensor | undefined;
  /** The axis of the channels, counted from the first. */
  readonly axis: number;
  readonly epsilon: number;
  readonly view: FacadeView;
  /** The access to the current backend's tensors. */
  readonly access: Access;
}

/** Returns an axis counted from the first. Throws RangeError for an axis that a tensor of this rank does not have. */
const axisOf = (rank: number, axis: number): number => {
  const index = axis < 0 ? axis + rank : axis;
  if (!(Number.isInteger(index) && index >= 0 && index < rank))
    throw wrongValue("axis", `an axis of a tensor of rank ${rank}`, axis);
  return index;
};

/** The number of positions before and behind the axis of the channels. */
export const around = (shape: readonly number[], axis: number): readonly [outer: number, inner: number] => [
  util.sizeFromShape(shape.slice(0, axis)),
  util.sizeFromShape(shape.slice(axis + 1)),
];

/**
 * Returns the view of a tensor with its channels on this axis. Axis 1 and the last axis keep their shape. Any other
 * axis becomes the middle one of [outer, channels, inner].
 */
function viewOf(shape: readonly number[], axis: number): FacadeView {
  const channels = shape[axis] as number;
  if (axis === 1) return { shape, layout: "channels-first", channels };
  if (axis > 1 && axis === shape.length - 1) return { shape, layout: "channels-last", channels };
  const [outer, inner] = around(shape, axis);
  return { shape: [outer, channels, inner], layout: "channels-first", channels };
}

/**
 * Returns the value. Throws TypeError if it is not a tensor of real numbers or booleans, and BatchNormError if it is
 * disposed of.
 */
export function checkTensor(name: string, value: unknown): Tensor {
  if (!(value instanceof Tensor)) throw wrongKind(name, "a tf.Tensor", value);
  if (value.dtype === "string" || value.dtype === "complex64")
    throw wrongKind(name, "a tensor of numbers", value.dtype);
  if (value.isDisposed) throw disposed(name);
  return value;
}

const asFloat = (t: Tensor): Tensor => (t.dtype === "float32" ? t : cast(t, "float32"));

/** Returns a vector of one value per channel as float32; undefined if it is absent. */
export function checkVector(name: string, value: Tensor | null | undefined, channels: number): Tensor | undefined {
  if (value === undefined || value === null) return undefined;
  const t = checkTensor(name, value);
  if (t.rank !== 1) throw wrongShape(name, [channels], t.shape);
  if (t.size !== channels) throw wrongLength(name, [channels], t.size);
  return asFloat(t);
}

function checkMask(value: Tensor, shape: readonly number[], axis: number): Tensor {
  const mask = checkTensor("mask", value);
  const expected = shape.filter((_, i) => i !== axis);
  if (!util.arraysEqual(mask.shape, expected)) throw wrongShape("mask", expected, mask.shape);
  return mask;
}

/**
 * Checks the arguments that all operations share, and converts them to float32. Throws TypeError or RangeError for wrong
 * ones, and BatchNormError for tensors that are disposed of.
 */
export function prepare(input: Tensor, { gamma, beta }: Scale, options: BatchNormOptions): Prepared {
  checkKeys("options", options, ["axis", "epsilon", "mask"]);
  const x = asFloat(checkTensor("x", input));
  const axis = axisOf(x.rank, options.axis ?? -1);
  const view = viewOf(x.shape, axis);
  return {
    x,
    gamma: checkVector("gamma", gamma, view.channels),
    beta: checkVector("beta", beta, view.channels),
    mask: options.mask && checkMask(options.mask, x.shape, axis),
    axis,
    epsilon: epsilonOption(options.epsilon, 1e-3),
    view,
    access: accessTo(engine().backend),
  };
}
