// Batch normalization by this library's kernels, as functions that TF.js can differentiate: one kernel for the forward,
// one for the backward.
//
//   forward  →  gradient (dx, dGamma, dBeta)  →  gradient of the gradient, for gradient penalties
//
// The forward is a tf.customGrad: its float64 statistics are not tensors of TF.js, and its closure holds them in
// `Saved`. The gradients have several outputs, which customGrad does not allow. So they are kernels of TF.js, which are
// registered with a backend on first use.

import {
  customGrad,
  engine,
  type GradSaveFunc,
  getGradient,
  getKernel,
  type KernelBackend,
  type NamedAttrMap,
  registerGradient,
  registerKernel,
  type Tensor,
  type TensorInfo,
  zeros,
} from "@tensorflow/tfjs-core";
import type { TensorLike } from "../memory/tensor.ts";
import { batchNormBackward } from "../ops/backward.ts";
import { batchNormDoubleBackward } from "../ops/double-backward.ts";
import { asRecord, type ForwardRecord, type ForwardResult } from "../ops/forward.ts";
import { type Access, accessTo } from "./access.ts";
import type { FacadeView, Prepared } from "./arguments.ts";

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

// ---- forward -----------------------------------------------------------------------------------------------------

/** One of the forward functions of src/ops, with its options bound. */
type Forward = (
  x: TensorLike,
  parameters: { gamma: Float32Array | null; beta: Float32Array | null },
) => Pick<ForwardResult<TensorLike>, "y" | "saved">;

/** Computes y by `forward`, as a tensor that TF.js can differentiate twice with respect to x, gamma and beta. */
export function differentiable({ x, gamma, beta, view }: Prepared, forward: Forward): Tensor {
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
