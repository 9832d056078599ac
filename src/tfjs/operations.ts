// Batch normalization as operations on TF.js's tensors: one kernel forward, one backward.
//
//   forward  →  gradient (dx, dGamma, dBeta)  →  gradient of the gradient, for gradient penalties
//
// The forward is a tf.customGrad, since its statistics are float64 and stay beside TF.js's tape, in `Saved`. Gradients have
// more than one output, which customGrad does not allow: they are kernels of TF.js, registered with a backend when they
// are first needed there.

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
import type { Saved } from "../ops/forward.ts";
import { epsilonOption } from "../ops/options.ts";
import type { BatchStatistics } from "../ops/statistics.ts";
import type { Layout } from "../tensor/types.ts";
import { type Access, accessTo } from "./access.ts";

export interface Scale {
  /** [C]; absent counts as ones. */
  gamma?: Tensor | null;
  /** [C]; absent counts as zeros. */
  beta?: Tensor | null;
}

export interface Statistics {
  /** [C] */
  mean: Tensor;
  /** [C], biased */
  variance: Tensor;
}

export interface BatchNormOptions {
  /** The axis of the channels. Default −1, the last. */
  axis?: number;
  /** Default 1e-3, as everywhere in TF.js. */
  epsilon?: number;
  /**
   * Which positions count, in x's shape without the axis of the channels: booleans, or weights ≥ 0. Statistics are those
   * of the data without what is masked, and so are gradients.
   */
  mask?: Tensor;
}

// ---- arguments ------------------------------------------------------------------------------------------------------

/** x's shape as the facade reads it. */
interface View {
  readonly shape: readonly number[];
  readonly layout: Layout;
  readonly channels: number;
}

const axisOf = (rank: number, axis: number): number => {
  const at = axis < 0 ? axis + rank : axis;
  if (!(Number.isInteger(at) && at >= 0 && at < rank))
    throw wrongValue("axis", `an axis of a tensor of rank ${rank}`, axis);
  return at;
};

/** Channels on axis 1 or last are a layout; others become the middle of three axes. */
function viewOf(shape: readonly number[], at: number): View {
  const channels = shape[at] as number;
  if (at === 1) return { shape, layout: "channels-first", channels };
  if (at > 1 && at === shape.length - 1) return { shape, layout: "channels-last", channels };
  const size = (part: readonly number[]) => util.sizeFromShape([...part]);
  return { shape: [size(shape.slice(0, at)), channels, size(shape.slice(at + 1))], layout: "channels-first", channels };
}

/** Throws TypeError for anything but a tensor of numbers. */
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

function maskOf(value: Tensor, shape: readonly number[], at: number): ArrayLike<number> {
  const mask = checkTensor("mask", value);
  const expected = shape.filter((_, i) => i !== at);
  if (!util.arraysEqual(mask.shape, expected)) throw wrongShape("mask", expected, mask.shape);
  return mask.dataSync();
}

/** What both operations take, checked. */
function prepare(input: Tensor, { gamma, beta }: Scale, options: BatchNormOptions) {
  checkKeys("options", options, ["axis", "epsilon", "mask"]);
  const x = asFloat(checkTensor("x", input));
  const at = axisOf(x.rank, options.axis ?? -1);
  const view = viewOf(x.shape, at);
  return {
    x,
    gamma: checkVector("gamma", gamma, view.channels),
    beta: checkVector("beta", beta, view.channels),
    view,
    settings: {
      layout: view.layout,
      epsilon: epsilonOption(options.epsilon, 1e-3),
      ...(options.mask ? { mask: maskOf(options.mask, x.shape, at) } : {}),
    },
  };
}

type Prepared = ReturnType<typeof prepare>;

// ---- gradients ------------------------------------------------------------------------------------------------------

/** What a gradient needs beside tensors. */
interface Attributes {
  readonly saved: Saved;
  readonly view: View;
  /** Whether there are gamma and beta. */
  readonly scale: boolean;
  readonly shift: boolean;
}

type Named<T> = { [name: string]: T };

interface Kernel {
  readonly name: string;
  compute(inputs: Named<TensorInfo>, attributes: Attributes, access: Access): TensorInfo[];
}

/** Runs one of our kernels on the current backend, with which it is registered at the first time. */
function run({ name, compute }: Kernel, inputs: Named<Tensor>, attributes: Attributes): Tensor[] {
  const { backend, backendName } = engine();
  accessTo(backend); // so that tensors of its probe do not count as the kernel's
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

/** dx, then dGamma and dBeta where there are gamma and beta. */
const GRADIENT: Kernel = {
  name: "BatchNormWasmGradient",
  compute({ dy, x }, { saved, view, scale, shift }, access) {
    const upstream = access.operand(dy as TensorInfo, view.shape);
    const kept = { ...saved, x: access.operand(x as TensorInfo, view.shape) };
    const { dx, dGamma, dBeta } = batchNormBackward(upstream, kept, { needs: { dGamma: scale, dBeta: shift } });
    const shape = (x as TensorInfo).shape;
    return [access.adopt(dx as TensorLike, shape), ...vector(access, dGamma), ...vector(access, dBeta)];
  },
};

/** The gradients of dy, x and gamma. */
const GRADIENT_OF_GRADIENT: Kernel = {
  name: "BatchNormWasmGradientOfGradient",
  compute({ dy, x, ddx, ddGamma, ddBeta }, { saved, view }, access) {
    const [upstream, input, outer] = [dy, x, ddx].map((t) => access.operand(t as TensorInfo, view.shape));
    const result = batchNormDoubleBackward(
      upstream as TensorLike,
      { ...saved, x: input as TensorLike },
      {
        ddx: outer as TensorLike,
        ...(ddGamma ? { ddGamma: access.read(ddGamma) } : {}),
        ...(ddBeta ? { ddBeta: access.read(ddBeta) } : {}),
      },
    );
    const { shape } = x as TensorInfo;
    const whole = [result.ddy, result.dx].map((t) => access.adopt(t as TensorLike, shape));
    return [...whole, ...vector(access, result.dGamma)];
  },
};

/** Tells TF.js how the gradient itself is differentiated. */
function registerGradientOfGradient(): void {
  if (getGradient(GRADIENT.name)) return;
  registerGradient({
    kernelName: GRADIENT.name,
    inputsToSave: ["dy", "x"],
    gradFunc: (outer, [dy, x], attrs) => {
      const attributes = attrs as unknown as Attributes;
      const { scale, shift, view } = attributes;
      const [ddx, ...others] = [outer].flat() as Tensor[];
      const ddGamma = scale ? others.shift() : undefined;
      const ddBeta = shift ? others.shift() : undefined;
      const inputs = present({ dy, x, ddx, ddGamma, ddBeta });
      const [forDy, forX, forGamma] = run(GRADIENT_OF_GRADIENT, inputs, attributes) as [Tensor, Tensor, Tensor];
      return { dy: () => forDy, x: () => forX, gamma: () => forGamma, beta: () => zeros([view.channels]) };
    },
  });
}

const present = (all: Named<Tensor | undefined>): Named<Tensor> =>
  Object.fromEntries(Object.entries(all).filter((entry): entry is [string, Tensor] => entry[1] !== undefined));

// ---- operations -----------------------------------------------------------------------------------------------------

/** The facade's forward on what it takes. */
type Forward = (
  x: TensorLike,
  parameters: { gamma: Float32Array | null; beta: Float32Array | null },
) => { y: TensorLike; saved: Saved };

/** y by `forward`, differentiable by x, gamma and beta. */
function differentiable({ x, gamma, beta, view }: Prepared, forward: Forward): Tensor {
  registerGradientOfGradient();
  const inputs = [x, gamma, beta].filter((t) => t !== undefined);
  const operation = customGrad((...all: unknown[]) => {
    const save = all.pop() as GradSaveFunc;
    const [input] = all as [Tensor];
    const access = accessTo(engine().backend);
    const read = (t: Tensor | undefined) => (t ? access.read(t) : null); // forward keeps copies
    const parameters = { gamma: read(gamma), beta: read(beta) };
    const { y, saved } = forward(access.operand(input, view.shape), parameters);
    save(all as Tensor[]);
    return {
      value: engine().makeTensorFromTensorInfo(access.adopt(y, input.shape)),
      gradFunc: (dy: Tensor, [x, ...others]: Tensor[]) => {
        const kept = { x, gamma: gamma && others.shift(), beta: beta && others.shift() };
        return run(GRADIENT, present({ dy, ...kept }), { saved, view, scale: !!gamma, shift: !!beta });
      },
    };
  });
  return operation(...inputs);
}

/** y by the statistics of x, and the statistics. */
export function normalizeBatch(
  x: Tensor,
  scale: Scale,
  options: BatchNormOptions,
): { y: Tensor; statistics: BatchStatistics } {
  const prepared = prepare(x, scale, options);
  let statistics: BatchStatistics = { count: 0, mean: new Float64Array(), variance: new Float64Array() };
  const y = differentiable(prepared, (input, parameters) => {
    const { mean, variance, ...result } = batchNormForward(input, parameters, prepared.settings);
    statistics = { count: result.saved.subBatches[0]?.count ?? 0, mean, variance };
    return result;
  });
  return { y, statistics };
}

/**
 * Batch normalization by the statistics of x (Ioffe & Szegedy 2015, Alg. 1; what tf.layers.batchNormalization computes in
 * training, by tf.moments and tf.batchNorm). x: any rank, channels on any axis; gamma, beta: [C].
 *
 * Returns y in x's shape, and mean and variance (biased), [C], which are constants to gradients; y is differentiable
 * by x, gamma and beta, twice. In float32; other types of numbers are cast to it. An empty batch gives an empty y and zeros.
 *
 * Throws TypeError and RangeError for wrong arguments, BatchNormError for one value per channel.
 */
export function batchNorm(x: Tensor, scale: Scale = {}, options: BatchNormOptions = {}): { y: Tensor } & Statistics {
  checkKeys("scale", scale, ["gamma", "beta"]);
  return tidy(() => {
    const { y, statistics } = normalizeBatch(x, scale, options);
    const [mean, variance] = [statistics.mean, statistics.variance].map((values) =>
      tensor1d(Float32Array.from(values)),
    );
    return { y, mean: mean as Tensor, variance: variance as Tensor };
  });
}

/**
 * Batch normalization by given statistics (tf.batchNorm). As batchNorm, with mean and variance, [C], among the parameters;
 * they are constants to gradients, so that dx = gamma·invStd·dy.
 */
export function batchNormInference(
  x: Tensor,
  parameters: Scale & Statistics,
  options: Omit<BatchNormOptions, "mask"> = {},
): Tensor {
  checkKeys("parameters", parameters, ["gamma", "beta", "mean", "variance"]);
  checkKeys("options", options, ["axis", "epsilon"]);
  return tidy(() => {
    const { mean, variance, ...scale } = parameters;
    const prepared = prepare(x, scale, options);
    const given = (name: string, value: Tensor) => {
      const t = checkVector(name, value, prepared.view.channels);
      if (!t) throw wrongKind(name, "a tf.Tensor", value);
      return t.dataSync() as Float32Array;
    };
    const statistics = { mean: given("mean", mean), variance: given("variance", variance) };
    return differentiable(prepared, (input, own) => inference(input, { ...own, ...statistics }, prepared.settings));
  });
}
