// The peers that run in an isolate of JavaScript, in the order of the report. A peer is
//
//   { name, layouts, needs?, load() → { prepare(problem, settings) → { operations } } }
//
// where `operations` maps a name of data.mjs's OPERANDS to { call(), results(), asynchronous? }: call() does it once, and
// results() are then what came out. A peer leaves out what it cannot do. `layouts` are those it can run, `needs` the
// package that it comes from. Another library becomes a file here and a line below.

const both = ["channels-first", "channels-last"];

async function inTfjs(backend) {
  const { ours, tfjs } = await import("./tfjs.mjs");
  return tfjs(backend, ours);
}

export const PEERS = {
  tensors: { name: "batchnorm-wasm, tensors", layouts: both, load: async () => (await import("./wasm.mjs")).tensors },
  arrays: { name: "batchnorm-wasm, arrays", layouts: both, load: async () => (await import("./wasm.mjs")).arrays },
  javascript: {
    name: "plain JavaScript",
    layouts: both,
    load: async () => (await import("./javascript.mjs")).javascript,
  },
  onnx: {
    name: "onnxruntime-web",
    layouts: both,
    needs: "onnxruntime-web",
    load: async () => (await import("./onnxruntime.mjs")).onnxruntime,
  },
  jax: { name: "jax-js", layouts: both, needs: "@jax-js/jax", load: async () => (await import("./jax.mjs")).jax },
  tfjsWasm: {
    name: "TF.js wasm",
    layouts: ["channels-last"],
    needs: "@tensorflow/tfjs-backend-wasm",
    load: async () => (await import("./tfjs.mjs")).tfjs("wasm"),
  },
  tfjsCpu: {
    name: "TF.js cpu",
    layouts: ["channels-last"],
    needs: "@tensorflow/tfjs-backend-cpu",
    load: async () => (await import("./tfjs.mjs")).tfjs("cpu"),
  },
  inTfjsWasm: {
    name: "batchnorm-wasm in TF.js wasm",
    layouts: ["channels-last"],
    needs: "@tensorflow/tfjs-backend-wasm",
    load: async () => inTfjs("wasm"),
  },
  inTfjsCpu: {
    name: "batchnorm-wasm in TF.js cpu",
    layouts: ["channels-last"],
    needs: "@tensorflow/tfjs-backend-cpu",
    load: async () => inTfjs("cpu"),
  },
};

/** What is measured against itself: our features, of ../features.mjs. */
const OWN = {
  features: { name: "batchnorm-wasm", layouts: both, load: async () => (await import("./features.mjs")).features },
};

/** All that an isolate can prepare. */
export const ISOLATED = { ...PEERS, ...OWN };
