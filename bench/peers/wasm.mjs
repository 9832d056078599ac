// Peers: this library, through its public API, on tensors in wasm memory and on plain arrays. Destinations are given, so
// that a call measures the work and not the garbage collector. The tensors also bring the copy: times of separate memories
// differ by a tenth or two, by where their pages happen to lie.

import * as here from "../../dist/index.js";
import { EPSILON } from "../data.mjs";
import { copyOperation } from "./copy.mjs";

const ours = (makeWith) => ({
  /**
   * `init` are options of init: a number of threads, another build by its bytes. `library` is the address of another
   * build of this library. Without a `copyModule`, there is no copy.
   */
  async prepare(problem, { init: options, copyModule, library }) {
    const used = library ? await import(library) : here;
    const { BatchNorm, init } = used;
    const make = makeWith(used);
    const { shape, layout, dims, x: xData, dy: dyData, gamma, beta, runningMean, runningVariance } = problem;
    if (options?.module) await init({ module: await WebAssembly.compile(options.module) });
    else if (options) await init(options);
    const empty = () => make(shape, new Float32Array(xData.length));
    const [x, dy, y, dx] = [make(shape, xData), make(shape, dyData), empty(), empty()];
    // a layer for each operation: backward needs what the latest forward of its own layer kept
    const layer = () =>
      Object.assign(new BatchNorm(dims.channels, { layout, epsilon: EPSILON }), {
        gamma: gamma.slice(),
        beta: beta.slice(),
        runningMean: runningMean.slice(),
        runningVariance: runningVariance.slice(),
      });
    const [inferring, training, differentiating, stepping] = [layer(), layer(), layer(), layer()];
    inferring.eval();
    differentiating.forward(x, { out: y });
    let gradients = {};
    // builds before `saved` differentiate a forward again without it
    const again = differentiating.saved && { saved: differentiating.saved };
    const backward = (layer, options) => {
      gradients = layer.backward(dy, { dxOut: dx, ...options });
    };
    const ofBackward = () => ({ dx: dx.data, dGamma: gradients.dGamma, dBeta: gradients.dBeta });
    return {
      operations: {
        ...(copyModule && x.heap && { copy: copyOperation(copyModule, x, y) }),
        inference: { call: () => inferring.forward(x, { out: y }), results: () => ({ y: y.data }) },
        forward: { call: () => training.forward(x, { out: y }), results: () => ({ y: y.data }) },
        backward: { call: () => backward(differentiating, again), results: ofBackward },
        step: {
          call: () => {
            stepping.forward(x, { out: y });
            backward(stepping);
          },
          results: () => ({ y: y.data, ...ofBackward() }),
        },
      },
    };
  },
});

export const tensors = ours(({ tensor }) => tensor);
export const arrays = ours(() => (shape, data) => ({ data, shape }));
