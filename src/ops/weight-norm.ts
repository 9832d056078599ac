// Weight normalization (Salimans & Kingma 2016): w = g·v/‖v‖, the norm over the weights of each output. It is made of the
// two primitives, over a weight that is read as [outer, outputs, inner]. docs/concepts/family.md has the equations.

import { wrongValue } from "../common/errors.ts";
import { checkKeys, oneOf } from "../common/validate.ts";
import { checkOperand, checkOut, checkVector, overwrites } from "../memory/guards.ts";
import { CallScope, heapOf } from "../memory/operand.ts";
import type { AnyTensor } from "../memory/tensor.ts";
import { checks } from "../memory/written.ts";
import { computeDtype, type Vector } from "../tensor/dtype.ts";
import { dimensions, type Geometry, sizeOf } from "../tensor/shape.ts";
import { NONE } from "./activation.ts";
import { commitGradients, type SomeGradients } from "./backward.ts";
import { type NormInputs, prepareBackward, recordWith, type SavedNorm } from "./norms.ts";
import {
  batchStatistics,
  emptyGradientSums,
  gradientMap,
  gradientSums,
  invStdOf,
  normalize,
  type Terms,
} from "./primitives.ts";

const FORMATS = ["OI", "IO", "OIHW", "IOHW", "HWIO", "HWOI", "HWIM"] as const;

/** The axes of a weight: O outputs, I inputs, H height, W width; of a depthwise one, I·M outputs of I inputs. */
export type WeightFormat = (typeof FORMATS)[number];

/** Options of weightNormForward. */
export interface WeightNormOptions<T extends AnyTensor = AnyTensor> {
  /** The axes of the weight, named as foldIntoLinear and foldIntoConv name them. Default "OI" and, of rank 4, "OIHW". */
  format?: WeightFormat;
  /** Where to write w; by default it is new. */
  out?: T;
}

/** The result of weightNormForward. */
export interface WeightNormResult<T extends AnyTensor = AnyTensor> {
  /** The weight w = g·v/‖v‖, in v's kind and shape. */
  y: T;
  /** The record for normBackward. */
  saved: SavedNorm;
  /** The Euclidean norm ‖v‖ of each output's weights, float64, [O]. With g = norm, w is v. */
  norm: Float64Array;
}

/** Reads a weight as [outer, outputs, inner]. Throws RangeError if its rank is not that of the format. */
function geometryOf(shape: readonly number[], format: WeightFormat): Geometry {
  if (shape.length !== format.length) throw wrongValue("v.shape", `the ${format.length} axes of "${format}"`, shape);
  const product = (begin: number, end: number) => shape.slice(begin, end).reduce((a, b) => a * b, 1);
  const [begin, end] = format === "HWIM" ? [2, 4] : [format.indexOf("O"), format.indexOf("O") + 1];
  return dimensions(product(0, begin), product(begin, end), product(end, shape.length));
}

/**
 * Normalises a weight: w = g·v/‖v‖, with the norm over all weights of an output (Salimans & Kingma 2016, equation 2;
 * torch.nn.utils.parametrizations.weight_norm). v has the axes of `format`, and g is [O], Float64Array if v is float64,
 * else Float32Array. An output whose weights are all 0 gets w = 0, and no gradient.
 *
 * Returns w as `y` in v's kind and shape. normBackward's dx is the gradient of v, its dGamma that of g. `saved` refers
 * to v, which must not change before that. Throws TypeError and RangeError for wrong arguments.
 */
export function weightNormForward<T extends AnyTensor>(
  v: T,
  g: Vector,
  options: WeightNormOptions<T> = {},
): WeightNormResult<T> {
  checkKeys("options", options, ["format", "out"]);
  const dtype = checkOperand("v", v);
  sizeOf("v", v.shape, 2);
  const geometry = geometryOf(v.shape, oneOf("format", options.format, FORMATS, v.shape.length === 4 ? "OIHW" : "OI"));
  const { channels } = geometry;
  const { out } = options;
  const gamma = checkVector("g", g, channels, computeDtype(dtype)).slice();
  const heap = heapOf(v, out);
  checkOut("out", out, v.shape, heap, dtype);
  overwrites("out", out, "v", v, null);
  const mean = new Float64Array(channels);
  const invStd = new Float64Array(channels);
  const terms: Terms = { mean, invStd, gamma, beta: null, activation: NONE };
  const call = new CallScope(heap, dtype, [v, out]);
  try {
    const y = call.allocateResult(out, v);
    const norm = new Float64Array(channels);
    call.withOperands([v, y], geometry, 0, (source, target) => {
      const variance = new Float64Array(channels);
      batchStatistics(source, 0, { mean, variance, invStd });
      // the sum of squares is count·(variance + mean²): two positive terms, so nothing cancels
      for (let c = 0; c < channels; c++)
        variance[c] = geometry.count * ((variance[c] as number) + (mean[c] as number) ** 2);
      invStdOf(variance, 0, invStd);
      for (let c = 0; c < channels; c++) norm[c] = Math.sqrt(variance[c] as number);
      mean.fill(0);
      normalize(source, undefined, target, terms);
    });
    const inputs: NormInputs = { dtype, x: v, shape: [...v.shape], vector: [channels], gamma, beta: null };
    const verify = checks.remember?.({ v });
    const saved = recordWith((dy, backwardOptions) => {
      const prepared = prepareBackward(dy, inputs, backwardOptions);
      verify?.();
      return commitGradients(differentiate(prepared, geometry, terms), prepared);
    });
    return { y: call.result(y, out, v) as T, saved, norm };
  } finally {
    call.dispose();
  }
}

/** Computes dv = g/‖v‖·(dw − x̂·dg) where it is asked for, with x̂ = v/‖v‖ and dg = Σ dw·x̂ over the weights of an output. */
function differentiate<T extends AnyTensor>(
  { heap, dy, inputs, dx, dxOut, sums }: ReturnType<typeof prepareBackward<T>>,
  geometry: Geometry,
  terms: Terms,
): SomeGradients<T> {
  const call = new CallScope(heap, inputs.dtype, [inputs.x, dy, dxOut]);
  try {
    const target = dx ? call.allocateResult(dxOut, dy) : undefined;
    call.withOperands([inputs.x, dy, target], geometry, 0, (source, upstream, to) => {
      const products = emptyGradientSums(geometry.channels);
      gradientSums(source, upstream, terms, false, products);
      sums?.dGamma.set(products.dGamma);
      // nothing is subtracted in forward, so dx has no term in Σ dw, and x̂ is of norm 1 rather than of variance 1
      products.dBeta.fill(0);
      if (to) gradientMap(source, upstream, to, terms, products, { count: 1, gammaVaries: false, fused: false });
    });
    return target ? { dx: call.result(target, dxOut, dy) as T } : {};
  } finally {
    call.dispose();
  }
}
