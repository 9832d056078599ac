// Batch normalization as operations on TF.js's tensors: one kernel for the forward, one for the backward.
//
//   forward  →  gradient (dx, dGamma, dBeta)  →  gradient of the gradient, for gradient penalties
//
// The forward is a tf.customGrad: its float64 statistics are not tensors of TF.js, and its closure holds them in
// `Saved`. The gradients have several outputs, which customGrad does not allow. So they are kernels of TF.js, which are
// registered with a backend on first use.

import {
  cast,
  customGrad,
  engine,
  type GradSaveFunc,
  getGradient,
  getKernel,
  type KernelBackend,
  type NamedAttrMap,
  registerGradient,
  registerKernel,
  Tensor,
  type TensorInfo,
  tensor1d,
  tidy,
  util,
  zeros,
} from "@tensorflow/tfjs-core";
import { wrongKind, wrongLength, wrongShape, wrongValue } from "../common/errors.ts";
import { checkKeys } from "../common/validate.ts";
import type { TensorLike } from "../memory/tensor.ts";
import { batchNormBackward } from "../ops/backward.ts";
import { batchNormForward, batchNormInference as inference } from "../ops/batch-norm.ts";
import { batchNormDoubleBackward } from "../ops/double-backward.ts";
import { asRecord, type ForwardRecord, type ForwardResult } from "../ops/forward.ts";
import { epsilonOption } from "../ops/options.ts";
import type { BatchStatistics } from "../ops/statistics.ts";
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

// ---- arguments ------------------------------------------------------------------------------------------------------

/** The shape and layout in which the functions of src/ops read a tensor of TF.js. */
interface FacadeView {
  readonly shape: readonly number[];
  readonly layout: Layout;
  readonly channels: number;
}

/** Returns an axis counted from the first. Throws RangeError for an axis that a tensor of this rank does not have. */
const axisOf = (rank: number, axis: number): number => {
  const index = axis < 0 ? axis + rank : axis;
  if (!(Number.isInteger(index) && index >= 0 && index < rank))
    throw wrongValue("axis", `an axis of a tensor of rank ${rank}`, axis);
  return index;
};

/**
 * Returns the view of a tensor with its channels on this axis. Axis 1 and the last axis keep their shape. Any other
 * axis becomes the middle one of [outer, channels, inner].
 */
function viewOf(shape: readonly number[], axis: number): FacadeView {
  const channels = shape[axis] as number;
  if (axis === 1) return { shape, layout: "channels-first", channels };
  if (axis > 1 && axis === shape.length - 1) return { shape, layout: "channels-last", channels };
  const size = (axes: readonly number[]) => util.sizeFromShape([...axes]);
  const [outer, inner] = [size(shape.slice(0, axis)), size(shape.slice(axis + 1))];
  return { shape: [outer, channels, inner], layout: "channels-first", channels };
}

/** Returns the value, or throws TypeError if it is not a tensor of real numbers or booleans. */
function checkTensor(name: string, value: unknown): Tensor {
  if (!(value instanceof Tensor)) throw wrongKind(name, "a tf.Tensor", value);
  if (value.dtype === "string" || value.dtype === "complex64")
    throw wrongKind(name, "a tensor of numbers", value.dtype);
  return value;
}

const asFloat = (t: Tensor): Tensor => (t.dtype === "float32" ? t : cast(t, "float32"));

function checkVector(name: string, value: Tensor | null | undefined, channels: number): Tensor | undefined {
  if (value === undefined || value === null) return undefined;
  const t = checkTensor(name, value);
  if (t.rank !== 1) throw wrongShape(name, [channels], t.shape);
  if (t.size !== channels) throw wrongLength(name, [channels], t.size);
  return asFloat(t);
}

function maskOf(value: Tensor, shape: readonly number[], axis: number): ArrayLike<number> {
  const mask = checkTensor("mask", value);
  const expected = shape.filter((_, i) => i !== axis);
  if (!util.arraysEqual(mask.shape, expected)) throw wrongShape("mask", expected, mask.shape);
  return mask.dataSync();
}

/** Checks the arguments that both operations share, and converts them to float32. */
function prepare(input: Tensor, { gamma, beta }: Scale, options: BatchNormOptions) {
  checkKeys("options", options, ["axis", "epsilon", "mask"]);
  const x = asFloat(checkTensor("x", input));
  const axis = axisOf(x.rank, options.axis ?? -1);
  const view = viewOf(x.shape, axis);
  return {
    x,
    gamma: checkVector("gamma", gamma, view.channels),
    beta: checkVector("beta", beta, view.channels),
    view,
    settings: {
      layout: view.layout,
      epsilon: epsilonOption(options.epsilon, 1e-3),
      ...(options.mask ? { mask: maskOf(options.mask, x.shape, axis) } : {}),
    },
  };
}

type Prepared = ReturnType<typeof prepare>;

// ---- gradients ------------------------------------------------------------------------------------------------------

/** Inputs of a gradient kernel that are not tensors. */
interface Attributes {
  readonly saved: ForwardRecord;
  readonly view: FacadeView;
  readonly hasGamma: boolean;
  readonly hasBeta: boolean;
}

type Named<T> = { [name: string]: T };

/** A kernel that this library registers with TF.js. */
interface GradientKernel {
  readonly name: string;
  compute(inputs: Named<TensorInfo>, attributes: Attributes, access: Access): TensorInfo[];
}

/** Runs a kernel on TF.js's current backend, and registers it there before its first run. */
function run({ name, compute }: GradientKernel, inputs: Named<Tensor>, attributes: Attributes): Tensor[] {
  const { backend, backendName } = engine();
  accessTo(backend); // probes a new backend now: inside the kernel, TF.js would count the probe's tensors as its
  if (!getKernel(name, backendName))
    registerKernel({
      kernelName: name,
      backendName,
      kernelFunc: ({ inputs, attrs, backend }) =>
        compute(inputs as Named<TensorInfo>, attrs as unknown as Attributes, accessTo(backend as KernelBackend)),
    });
  return engine().runKernel(name, inputs, attributes as unknown as NamedAttrMap) as unknown as Tensor[];
}

const vector = (access: Access, values: Float32Array | undefined) =>
  values ? [access.write(values, [values.length])] : [];

/** The gradient. Its outputs are dx, then dGamma if there is a gamma, then dBeta if there is a beta. */
const GRADIENT: GradientKernel = {
  name: "BatchNormWasmGradient",
  compute({ dy, x }, { saved, view, hasGamma, hasBeta }, access) {
    const upstream = access.operand(dy as TensorInfo, view.shape);
    // TF.js may have moved x since the forward, to another backend for example
    const savedWithX = asRecord({
      ...saved,
      x: access.operand(x as TensorInfo, view.shape),
      verify: undefined,
    });
    const needs = { dGamma: hasGamma, dBeta: hasBeta };
    const { dx, dGamma, dBeta } = batchNormBackward(upstream, savedWithX, { needs });
    const shape = (x as TensorInfo).shape;
    return [access.adopt(dx as TensorLike, shape), ...vector(access, dGamma), ...vector(access, dBeta)];
  },
};

/** The gradient of the gradient. Its outputs are the gradients with respect to dy, x and gamma. */
const GRADIENT_OF_GRADIENT: GradientKernel = {
  name: "BatchNormWasmGradientOfGradient",
  compute({ dy, x, ddx, ddGamma, ddBeta }, { saved, view }, access) {
    const [upstream, input, gradientOfDx] = [dy, x, ddx].map((t) => access.operand(t as TensorInfo, view.shape));
    const result = batchNormDoubleBackward(
      upstream as TensorLike,
      asRecord({ ...saved, x: input as TensorLike, verify: undefined }),
      {
        ddx: gradientOfDx as TensorLike,
        ...(ddGamma ? { ddGamma: access.read(ddGamma) } : {}),
        ...(ddBeta ? { ddBeta: access.read(ddBeta) } : {}),
      },
    );
    const { shape } = x as TensorInfo;
    const tensors = [result.ddy, result.dx].map((t) => access.adopt(t as TensorLike, shape));
    return [...tensors, ...vector(access, result.dGamma)];
  },
};

/** Registers GRADIENT_OF_GRADIENT as TF.js's gradient function of the kernel GRADIENT. */
function registerGradientOfGradient(): void {
  if (getGradient(GRADIENT.name)) return;
  registerGradient({
    kernelName: GRADIENT.name,
    inputsToSave: ["dy", "x"],
    gradFunc: (upstream, [dy, x], attrs) => {
      const attributes = attrs as unknown as Attributes;
      const { hasGamma, hasBeta, view } = attributes;
      const [ddx, ...vectors] = [upstream].flat() as Tensor[];
      const ddGamma = hasGamma ? vectors.shift() : undefined;
      const ddBeta = hasBeta ? vectors.shift() : undefined;
      const inputs = present({ dy, x, ddx, ddGamma, ddBeta });
      const [forDy, forX, forGamma] = run(GRADIENT_OF_GRADIENT, inputs, attributes) as [Tensor, Tensor, Tensor];
      return { dy: () => forDy, x: () => forX, gamma: () => forGamma, beta: () => zeros([view.channels]) };
    },
  });
}

/** Returns the tensors that are defined. */
const present = (tensors: Named<Tensor | undefined>): Named<Tensor> =>
  Object.fromEntries(Object.entries(tensors).filter((entry): entry is [string, Tensor] => entry[1] !== undefined));

// ---- operations -----------------------------------------------------------------------------------------------------

/** One of the forward functions of src/ops, with its options bound. */
type Forward = (
  x: TensorLike,
  parameters: { gamma: Float32Array | null; beta: Float32Array | null },
) => Pick<ForwardResult<TensorLike>, "y" | "saved">;

/** Computes y by `forward`, as a tensor that TF.js can differentiate twice with respect to x, gamma and beta. */
function differentiable({ x, gamma, beta, view }: Prepared, forward: Forward): Tensor {
  registerGradientOfGradient();
  const inputs = [x, gamma, beta].filter((t) => t !== undefined);
  const operation = customGrad((...args: unknown[]) => {
    const save = args.pop() as GradSaveFunc;
    const [input] = args as [Tensor];
    const access = accessTo(engine().backend);
    const read = (t: Tensor | undefined) => (t ? access.read(t) : null); // `forward` copies them for `saved`
    const parameters = { gamma: read(gamma), beta: read(beta) };
    const { y, saved } = forward(access.operand(input, view.shape), parameters);
    access.sharingClones(() => save(args as Tensor[]));
    return {
      value: engine().makeTensorFromTensorInfo(access.adopt(y, input.shape)),
      gradFunc: (dy: Tensor, [x, ...vectors]: Tensor[]) => {
        const inputs = present({ dy, x, gamma: gamma && vectors.shift(), beta: beta && vectors.shift() });
        return run(GRADIENT, inputs, { saved: saved as ForwardRecord, view, hasGamma: !!gamma, hasBeta: !!beta });
      },
    };
  });
  return operation(...inputs);
}

/**
 * Normalises x by its own statistics, and returns y and these statistics, float64. Its count is 0 for an empty batch.
 */
export function normalizeBatch(
  x: Tensor,
  parameters: Scale,
  options: BatchNormOptions,
): { y: Tensor; statistics: BatchStatistics } {
  const prepared = prepare(x, parameters, options);
  let statistics: BatchStatistics = { count: 0, mean: new Float64Array(), variance: new Float64Array() };
  const y = differentiable(prepared, (input, vectors) => {
    const { mean, variance, count, ...result } = batchNormForward(input, vectors, prepared.settings);
    statistics = { count, mean, variance };
    return result;
  });
  return { y, statistics };
}

/**
 * Normalises x by its own statistics (Ioffe & Szegedy 2015, Alg. 1). tf.layers.batchNormalization computes the same in
 * training, with tf.moments and tf.batchNorm. x has any rank and its channels on any axis; gamma and beta are [C].
 *
 * Returns y in x's shape, and the mean and biased variance, [C] each. y can be differentiated twice with respect to x,
 * gamma and beta; mean and variance are constants in gradients. The computation is in float32, and tensors of other
 * types are cast. An empty batch gives an empty y and statistics of zeros.
 *
 * Throws TypeError or RangeError for wrong arguments, and BatchNormError if a channel has one value only.
 */
export function batchNorm(x: Tensor, scale: Scale = {}, options: BatchNormOptions = {}): { y: Tensor } & Statistics {
  checkKeys("scale", scale, ["gamma", "beta"]);
  return tidy(() => {
    const { y, statistics } = normalizeBatch(x, scale, options);
    const [mean, variance] = [statistics.mean, statistics.variance].map((values) => tensor1d(new Float32Array(values)));
    return { y, mean: mean as Tensor, variance: variance as Tensor };
  });
}

/**
 * Normalises x by given statistics and returns y in x's shape (tf.batchNorm). x has any rank and its channels on any
 * axis; gamma, beta, mean and variance are [C]. y can be differentiated with respect to x, gamma and beta; mean and
 * variance are constants in gradients, so that dx = gamma·invStd·dy. The computation is in float32, and tensors of
 * other types are cast.
 *
 * Throws TypeError or RangeError for wrong arguments.
 */
export function batchNormInference(
  x: Tensor,
  parameters: Scale & Statistics,
  options: Omit<BatchNormOptions, "mask"> = {},
): Tensor {
  checkKeys("parameters", parameters, ["gamma", "beta", "mean", "variance"]);
  checkKeys("options", options, ["axis", "epsilon"]);
  return tidy(() => {
    const { mean, variance, ...affine } = parameters;
    const prepared = prepare(x, affine, options);
    const readVector = (name: string, value: Tensor) => {
      const t = checkVector(name, value, prepared.view.channels);
      if (!t) throw wrongKind(name, "a tf.Tensor", value);
      return t.dataSync() as Float32Array;
    };
    const statistics = { mean: readVector("mean", mean), variance: readVector("variance", variance) };
    return differentiable(prepared, (input, vectors) =>
      inference(input, { ...vectors, ...statistics }, prepared.settings),
    );
  });
}
