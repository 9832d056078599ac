// The network of the demo and of the lab: hidden layers with a norm before each activation, softmax with cross-entropy,
// stochastic gradient descent.
//
//   h = x;   for every hidden layer:  z = h·W,  s = norm(z),  h = activation(s);   logits = h·W + b
//
// norm is batch norm or what stands in its place (norms.mjs): nothing else differs between two networks that are compared.
// A norm may also normalise W, before z is computed.
// Matrix products and elementwise functions are jax-js's; between them and norm, tensors go as { data, shape }.

import { jit, nn, numpy as np, random } from "@jax-js/jax";

// jax-js counts references: a call consumes the arrays that it is given, and `.ref` keeps one for later use.
const product = jit((h, w) => np.dot(h, w));
const inputGradient = jit((dz, w) => np.dot(dz, w.transpose()));
const weightGradient = jit((h, dz) => np.dot(h.transpose(), dz));
const descend = jit((parameter, gradient, learningRate) => parameter.sub(gradient.mul(learningRate)));

/** f, and the gradient at its input by the one at its output, dh, and the output itself, h. */
const ACTIVATIONS = {
  sigmoid: { f: jit((s) => nn.sigmoid(s)), gradient: jit((dh, h) => dh.mul(h.ref).mul(np.subtract(1, h))) },
  tanh: { f: jit((s) => np.tanh(s)), gradient: jit((dh, h) => dh.mul(np.subtract(1, h.ref.mul(h)))) },
  relu: { f: jit((s) => nn.relu(s)), gradient: jit((dh, h) => dh.mul(np.sign(h))) },
};

/** The cross-entropy of a batch, divided by `total` for its mean, and its gradients at the logits and at the bias. */
const crossEntropy = jit((z, bias, labels, total) => {
  const classes = z.shape[1];
  const target = nn.oneHot(labels, classes);
  const logProbability = nn.logSoftmax(z.add(bias), -1);
  const loss = logProbability.ref.mul(target.ref).sum().div(total.ref.neg());
  const dLogits = np.exp(logProbability).sub(target).div(total);
  return [loss, dLogits.ref, dLogits.sum(0)];
});

// jax-js computes when the values are asked for, so fromJax must stay outside what is timed below.
const toJax = ({ data, shape }) => np.array(data, { shape });
const fromJax = (array) => ({ shape: array.shape, data: array.dataSync() });

export class Network {
  /** Time spent in forward and backward of the norms. */
  normMilliseconds = 0;

  /**
   * @param {object} options
   * @param {number[]} options.sizes units per layer, from the inputs to the classes
   * @param {(channels: number, layer: number, weight: import("./norms.mjs").Plain) => import("./norms.mjs").Norm} options.norm
   *   weight is the layer's initial W, [inputs, channels]
   * @param {number | ((inputs: number) => number)} options.deviation standard deviation of the initial weights
   * @param {number} options.seed
   * @param {"sigmoid" | "tanh" | "relu"} [options.activation]
   */
  constructor({ sizes, norm, deviation, seed, activation = "sigmoid" }) {
    const units = sizes.slice(1);
    const keys = random.split(random.key(seed), units.length);
    const spread = typeof deviation === "number" ? () => deviation : deviation;
    this.weights = units.map((n, i) => random.normal(keys.ref.slice(i), [sizes[i], n]).mul(spread(sizes[i])));
    this.bias = np.zeros(units.slice(-1));
    this.norms = units.slice(0, -1).map((n, i) => norm(n, i, fromJax(this.weights[i].ref)));
    this.activation = ACTIVATIONS[activation];
    keys.dispose();
  }

  /**
   * The loss of a training batch, its gradient at every parameter, and what every hidden layer's activation got (s). The
   * caller owns the arrays dWeights and dBias.
   *
   * @param {{ data: Float32Array, shape: readonly number[] }} x
   * @param {Int32Array} labels
   * @param {"train" | "batch"} [mode] "batch" leaves running statistics as they are
   * @param {number} [total] samples of the batch that x is a shard of: losses and gradients of all shards add up to its own
   */
  gradients(x, labels, mode = "train", total = labels.length) {
    const last = this.norms.length;
    const inputs = [toJax(x)];
    const weights = [];
    const signals = [];
    for (let i = 0; i < last; i++) {
      weights.push(this.#weight(i));
      const { s, h } = this.#hiddenLayer(i, inputs[i].ref, weights[i].ref, mode);
      signals.push(s.data);
      inputs.push(h);
    }
    weights.push(this.weights[last].ref);

    const z = product(inputs[last].ref, weights[last].ref);
    const [loss, dLogits, dBias] = crossEntropy(z, this.bias.ref, np.array(labels), total);

    const dWeights = [];
    const dNorms = [];
    let dz = dLogits;
    dWeights[last] = weightGradient(inputs[last].ref, dz.ref);
    for (let i = last - 1; i >= 0; i--) {
      const norm = this.norms[i];
      const dh = inputGradient(dz, weights[i + 1]);
      const ds = fromJax(this.activation.gradient(dh, inputs[i + 1]));
      const { dx, dGamma, dBeta } = this.#timed(() => norm.backward(ds));
      dNorms[i] = { dGamma, dBeta };
      dz = toJax(dx);
      dWeights[i] = weightGradient(inputs[i].ref, dz.ref);
      if (!norm.weight) continue;
      const dw = fromJax(dWeights[i]);
      const ofWeight = this.#timed(() => norm.weightBackward(dw));
      dNorms[i].dGamma = ofWeight.dGamma;
      dWeights[i] = toJax(ofWeight.dx);
    }
    for (const array of [dz, inputs[0], weights[0]]) array.dispose();
    return { loss: loss.item(), dWeights, dNorms, dBias, signals };
  }

  /**
   * One step of stochastic gradient descent; returns the loss before it, the norm of the gradient at every layer's weights
   * where `measure` asks for them, and what every hidden layer's activation got.
   *
   * @param {{ data: Float32Array, shape: readonly number[] }} x
   * @param {Int32Array} labels
   * @param {number} learningRate
   */
  step(x, labels, learningRate, measure = false) {
    const { loss, dWeights, dNorms, dBias, signals } = this.gradients(x, labels);
    const norms = measure ? dWeights.map((d) => normOf(d.ref.dataSync())) : [];
    this.weights = this.weights.map((w, i) => descend(w, dWeights[i], learningRate));
    this.bias = descend(this.bias, dBias, learningRate);
    for (const [i, d] of dNorms.entries())
      for (const [name, gradient] of [
        ["gamma", d.dGamma],
        ["beta", d.dBeta],
      ])
        gradient?.forEach((value, c) => {
          this.norms[i][name][c] -= learningRate * value;
        });
    return { loss, norms, signals };
  }

  /**
   * The likeliest class of every input, the probabilities of all, the mean loss where there are labels, and what the last hidden layer's activation
   * got (s) and gave (h).
   *
   * @param {{ data: Float32Array, shape: readonly number[] }} x
   * @param {Int32Array} [labels]
   * @param {"eval" | "batch"} [mode] by running statistics, or by those of x
   */
  predict(x, labels, mode = "eval") {
    let s;
    let h = toJax(x);
    for (let i = 0; i < this.norms.length; i++) ({ s, h } = this.#hiddenLayer(i, h, this.#weight(i), mode));
    const z = product(h.ref, this.weights.at(-1).ref);
    let loss;
    if (labels) {
      const [value, ...gradients] = crossEntropy(z.ref, this.bias.ref, np.array(labels), labels.length);
      for (const gradient of gradients) gradient.dispose();
      loss = value.item();
    }
    const logits = z.add(this.bias.ref);
    const classes = np.argmax(logits.ref, -1).dataSync();
    return { classes, probabilities: nn.softmax(logits, -1).dataSync(), loss, s: s.data, h: h.dataSync() };
  }

  /**
   * Has the norms that start from data do so, layer after layer (norms.mjs, `initialize`). Other networks stay as they are.
   *
   * @param {{ data: Float32Array, shape: readonly number[] }} x
   */
  initialize(x) {
    let h = toJax(x);
    for (const [i, norm] of this.norms.entries()) {
      norm.initialize?.(fromJax(product(h.ref, this.#weight(i))));
      ({ h } = this.#hiddenLayer(i, h, this.#weight(i), "batch"));
    }
    h.dispose();
  }

  /** Every parameter, one after the other: the point in the loss's landscape. */
  get parameters() {
    return concatenated([
      ...this.weights.map((w) => w.ref.dataSync()),
      this.bias.ref.dataSync(),
      ...this.norms.flatMap(({ gamma, beta }) => [gamma, beta]),
    ]);
  }

  set parameters(values) {
    let at = 0;
    const take = (length) => {
      at += length;
      return values.slice(at - length, at);
    };
    const like = (array) => {
      const { shape, size } = array;
      array.dispose();
      return np.array(take(size), { shape });
    };
    this.weights = this.weights.map(like);
    this.bias = like(this.bias);
    for (const norm of this.norms)
      for (const name of ["gamma", "beta"]) if (norm[name]) norm[name].set(take(norm[name].length));
  }

  /** The loss, and its gradient in the order of `parameters`; `mode` and `total` as for gradients. */
  slope(x, labels, mode = "batch", total = labels.length) {
    const { loss, dWeights, dNorms, dBias } = this.gradients(x, labels, mode, total);
    const vectors = dNorms.flatMap(({ dGamma, dBeta }) => [dGamma, dBeta]);
    return { loss, gradient: concatenated([...dWeights.map((d) => d.dataSync()), dBias.dataSync(), ...vectors]) };
  }

  dispose() {
    for (const array of [...this.weights, this.bias]) array.dispose();
  }

  /** W of a hidden layer, as its norm gives it. */
  #weight(i) {
    const norm = this.norms[i];
    const v = this.weights[i].ref;
    return norm.weight ? toJax(this.#timed(() => norm.weight(fromJax(v)))) : v;
  }

  #hiddenLayer(i, h, weight, mode) {
    const z = fromJax(product(h, weight));
    const s = this.#timed(() => this.norms[i].forward(z, { mode }));
    return { s, h: this.activation.f(toJax(s)) };
  }

  #timed(call) {
    const start = performance.now();
    const result = call();
    this.normMilliseconds += performance.now() - start;
    return result;
  }
}

/** Absent vectors are left out. */
function concatenated(vectors) {
  const there = vectors.filter((v) => v);
  const all = new Float32Array(there.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const v of there) {
    all.set(v, at);
    at += v.length;
  }
  return all;
}

/** The Euclidean norm; Math.hypot takes as many values as a call has room for as arguments. */
function normOf(values) {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Math.sqrt(sum);
}
