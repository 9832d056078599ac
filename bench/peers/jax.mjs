// Peer: jax-js on its wasm backend, batch norm composed of its functions, differentiated by vjp and compiled by jit. The
// gradient comes with a forward pass, so there is no backward alone.

globalThis.navigator ??= { hardwareConcurrency: 1, userAgent: "Node" }; // which jax-js reads and Node 20 lacks

import { EPSILON } from "../data.mjs";

const { defaultDevice, init, jit, numpy: np, vjp } = await import("@jax-js/jax");

export const jax = {
  async prepare({ shape, layout, dims, ...problem }) {
    await init("wasm");
    defaultDevice("wasm");
    const axis = layout === "channels-last" ? shape.length - 1 : 1;
    const others = shape.map((_, i) => i).filter((i) => i !== axis);
    const perChannel = shape.map((_, i) => (i === axis ? dims.channels : 1));
    const channelwise = (vector) => vector.reshape(perChannel);
    // a call consumes the arrays that it is given, and `.ref` keeps one for later use
    const train = (x, gamma, beta) => {
      const d = x.ref.sub(np.mean(x, others, { keepdims: true }));
      const variance = np.mean(np.square(d.ref), others, { keepdims: true });
      return d.mul(channelwise(gamma).div(np.sqrt(variance.add(EPSILON)))).add(channelwise(beta));
    };
    const infer = (x, gamma, beta, mean, variance) => {
      const scale = gamma.div(np.sqrt(variance.add(EPSILON)));
      const shift = beta.sub(mean.mul(scale.ref));
      return x.mul(channelwise(scale)).add(channelwise(shift));
    };
    const differentiate = (x, gamma, beta, dy) => {
      const [y, pullBack] = vjp(train, [x, gamma, beta]);
      return [y, ...pullBack(dy)];
    };
    const x = np.array(problem.x, { shape });
    const dy = np.array(problem.dy, { shape });
    const [gamma, beta] = [np.array(problem.gamma), np.array(problem.beta)];
    const [mean, variance] = [np.array(problem.runningMean), np.array(problem.runningVariance)];
    /** Keeps the arrays of a jitted function's latest call under their names. */
    const operation = (names, compute) => {
      let outputs = [];
      return {
        asynchronous: true,
        async call() {
          for (const array of outputs) array.dispose();
          outputs = [compute()].flat();
          for (const array of outputs) await array.blockUntilReady();
        },
        results: async () =>
          Object.fromEntries(await Promise.all(names.map(async (name, i) => [name, await outputs[i].ref.data()]))),
      };
    };
    const [jittedInfer, jittedTrain, jittedStep] = [jit(infer), jit(train), jit(differentiate)];
    return {
      operations: {
        inference: operation(["y"], () => jittedInfer(x.ref, gamma.ref, beta.ref, mean.ref, variance.ref)),
        forward: operation(["y"], () => jittedTrain(x.ref, gamma.ref, beta.ref)),
        step: operation(["y", "dx", "dGamma", "dBeta"], () => jittedStep(x.ref, gamma.ref, beta.ref, dy.ref)),
      },
    };
  },
};
