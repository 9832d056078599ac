// Batches without statistics: an empty one, and in the layer, one value per channel. Both are the same on every backend.

import { add, customGrad, reshape, sum, type Tensor, zeros } from "@tensorflow/tfjs-core";
import { around, type Prepared } from "./arguments.ts";

/**
 * Returns beta in x's shape, which does not depend on x or gamma: dx and dGamma are zeros, and dBeta is the sum of dy.
 * Keras and TF.js give the same for one value per channel, since it is its own mean.
 */
export function constantly({ x, gamma, beta, axis, view: { channels } }: Prepared): Tensor {
  const { shape } = x;
  const [outer, inner] = around(shape, axis);
  const planes: [number, number, number] = [outer, channels, inner];
  const inputs = [x, gamma, beta].filter((t) => t !== undefined);
  const operation = customGrad(() => ({
    value: beta && x.size > 0 ? reshape(add(zeros(planes), reshape(beta, [channels, 1])), shape) : zeros(shape),
    gradFunc: (dy: Tensor) =>
      inputs.map((t) => (t === beta && x.size > 0 ? sum(reshape(dy, planes), [0, 2]) : zeros(t.shape))),
  }));
  return operation(...inputs);
}
