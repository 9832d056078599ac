// Batch normalization by this library's kernels, as functions that TF.js can differentiate: one kernel for the forward,
// one for the backward.
//
//   forward  →  gradient (dx, dGamma, dBeta)  →  gradient of the gradient, for gradient penalties
//
// The forward is a tf.customGrad: its float64 statistics are not tensors of TF.js, and its closure holds them in
// `Saved`. The gradients have several outputs, which customGrad does not allow. So they are kernels of TF.js, which are
// registered with a backend on first use.
//
// Further derivatives are rare. Where TF.js records the gradient of the gradient, since it will be differentiated itself,
// that is composed of TF.js's own operations (composed.ts), and so it is under a mask, for which there is no kernel.

import {
  addN,
  customGrad,
  engine,
  type GradSaveFunc,
  getGradient,
  getKernel,
  type KernelBackend,
  mul,
  type NamedAttrMap,
  registerGradient,
  registerKernel,
  sum,
  type Tensor,
  type TensorInfo,
  zeros,
  zerosLike,
} from "@tensorflow/tfjs-core";
import type { TensorLike } from "../memory/tensor.ts";
import { batchNormBackward } from "../ops/backward.ts";
import { batchNormDoubleBackward } from "../ops/double-backward.ts";
import { asRecord, type ForwardRecord, type ForwardResult } from "../ops/forward.ts";
import { type Access, accessTo } from "./access.ts";
import type { FacadeView, Prepared } from "./arguments.ts";
import { isRecording } from "./composed.ts";

/** The forward, composed of TF.js's own operations, which can be differentiated any number of times. */
type Composed = (inputs: Pick<Prepared, "x" | "gamma" | "beta">) => Tensor;

// ---- gradients ------------------------------------------------------------------------------------------------------

/** Inputs of a gradient kernel that are not tensors. */
interface Attributes {
  readonly saved: ForwardRecord;
  readonly view: FacadeView;
  readonly hasGamma: boolean;
  readonly hasBeta: boolean;
  /** Whether a mask leaves positions out. */
  readonly masked: boolean;
  readonly composed: Composed;
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

/** Returns the tensors that are defined. */
const some = (...tensors: (Tensor | undefined)[]): Tensor[] => tensors.filter((t) => t !== undefined);

/**
 * The gradient. Its outputs are dx, then dGamma if there is a gamma, then dBeta if there is a beta. TF.js saves inputs by
 * their names, and fails for one that is absent, so there are two names.
 */
const gradientKernel = (hasGamma: boolean): GradientKernel => ({
  name: `BatchNormWasmGradient${hasGamma ? "WithGamma" : ""}`,
  compute({ dy, x }, { saved, view, hasBeta }, access) {
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
});

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

/** The gradient without gamma, and with it. */
const GRADIENTS = /* @__PURE__ */ [false, true].map(gradientKernel) as [GradientKernel, GradientKernel];

/** Returns the gradients of f with respect to its inputs, for the gradient dy of its value. */
function gradientsOf(f: (...inputs: Tensor[]) => Tensor, inputs: Tensor[], dy?: Tensor): Tensor[] {
  const { grads } = engine().gradients(() => f(...inputs), inputs, dy, true);
  return inputs.map((input, i) => grads[i] ?? zerosLike(input)); // null where f does not depend on it
}

/**
 * Computes the gradients of the gradient with respect to dy, x and gamma by TF.js's own operations. `upstream` are those of
 * its outputs.
 */
function composeGradientOfGradient(
  [dy, x, gamma]: Tensor[],
  upstream: readonly Tensor[],
  { view, hasBeta, composed }: Attributes,
): Tensor[] {
  const beta = hasBeta ? zeros([view.channels]) : undefined; // no gradient depends on its values
  const { state } = engine();
  const { activeTape } = state;
  try {
    return gradientsOf(
      () => {
        const gradients = gradientsOf(() => composed({ x: x as Tensor, gamma, beta }), some(x, gamma, beta), dy);
        return addN(gradients.map((gradient, i) => sum(mul(gradient, upstream[i] as Tensor))));
      },
      some(dy, x, gamma),
    );
  } finally {
    // TF.js drops its tape after a gradient, also inside of another one, which goes on with it
    state.activeTape = activeTape;
  }
}

/** Registers GRADIENT_OF_GRADIENT as TF.js's gradient function of a kernel for the gradient. */
function registerGradientOf({ name }: GradientKernel, hasGamma: boolean): void {
  if (getGradient(name)) return;
  registerGradient({
    kernelName: name,
    inputsToSave: ["dy", "x", ...(hasGamma ? ["gamma"] : [])],
    gradFunc: (upstream, saved, attrs) => {
      const attributes = attrs as unknown as Attributes;
      const gradients = [upstream].flat() as Tensor[];
      const [forDy, forX, forGamma] = (
        isRecording() || attributes.masked
          ? composeGradientOfGradient(saved, gradients, attributes)
          : runGradientOf(saved, gradients, attributes)
      ) as [Tensor, Tensor, Tensor];
      const { channels } = attributes.view;
      return { dy: () => forDy, x: () => forX, gamma: () => forGamma, beta: () => zeros([channels]) };
    },
  });
}

/** Computes the gradients of the gradient with respect to dy, x and gamma by GRADIENT_OF_GRADIENT. */
function runGradientOf([dy, x]: Tensor[], [ddx, ...vectors]: Tensor[], attributes: Attributes): Tensor[] {
  const ddGamma = attributes.hasGamma ? vectors.shift() : undefined;
  const ddBeta = attributes.hasBeta ? vectors.shift() : undefined;
  return run(GRADIENT_OF_GRADIENT, present({ dy, x, ddx, ddGamma, ddBeta }), attributes);
}

/** Returns the tensors that are defined, by name. */
const present = (tensors: Named<Tensor | undefined>): Named<Tensor> =>
  Object.fromEntries(Object.entries(tensors).filter((entry): entry is [string, Tensor] => entry[1] !== undefined));

// ---- forward -----------------------------------------------------------------------------------------------------

/** One of the forward functions of src/ops, with its options bound. */
export type Forward = (
  x: TensorLike,
  parameters: { gamma: Float32Array | null; beta: Float32Array | null },
) => Pick<ForwardResult<TensorLike>, "y" | "saved">;

/**
 * Computes y by `forward`, as a tensor that TF.js can differentiate any number of times with respect to x, gamma and beta.
 * Derivatives beyond the second are those of `composed`.
 */
export function differentiable({ x, gamma, beta, mask, view }: Prepared, forward: Forward, composed: Composed): Tensor {
  const [hasGamma, hasBeta, masked] = [gamma, beta, mask].map((t) => t !== undefined) as [boolean, boolean, boolean];
  const kernel = GRADIENTS[hasGamma ? 1 : 0];
  registerGradientOf(kernel, hasGamma);
  const inputs = some(x, gamma, beta);
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
        return run(kernel, inputs, { saved: saved as ForwardRecord, view, hasGamma, hasBeta, masked, composed });
      },
    };
  });
  return operation(...inputs);
}
