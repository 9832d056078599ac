// The network of figure 1: hidden layers of sigmoid units, softmax with cross-entropy, stochastic gradient descent.
//
//   h = x;   for every hidden layer:  z = h·W,  s = norm(z),  h = sigmoid(s);   logits = h·W + b
//
// norm is batch norm or, without it, a bias: nothing else differs between the two networks of the figure. Matrix
// products and elementwise functions are jax-js's; between them and norm, tensors go as { data, shape }.

import { jit, nn, numpy as np, random } from "@jax-js/jax";
import { BatchNorm } from "batchnorm-wasm";
import { Bias } from "./bias.mjs";

// jax-js counts references: a call consumes the arrays that it is given, and `.ref` keeps one for later use.
const product = jit((h, w) => np.dot(h, w));
const inputGradient = jit((dz, w) => np.dot(dz, w.transpose()));
const weightGradient = jit((h, dz) => np.dot(h.transpose(), dz));
const sigmoid = jit((s) => nn.sigmoid(s));
const sigmoidGradient = jit((dh, h) => dh.mul(h.ref).mul(np.subtract(1, h)));
const descend = jit((parameter, gradient, learningRate) => parameter.sub(gradient.mul(learningRate)));

/** The mean cross-entropy of a batch, and its gradients at the logits and at the bias. */
const crossEntropy = jit((z, bias, labels) => {
  const [batch, classes] = z.shape;
  const target = nn.oneHot(labels, classes);
  const logProbability = nn.logSoftmax(z.add(bias), -1);
  const loss = logProbability.ref.mul(target.ref).sum().div(-batch);
  const dLogits = np.exp(logProbability).sub(target).div(batch);
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
   * @param {boolean} options.batchNorm
   * @param {number} options.deviation standard deviation of the initial weights
   * @param {number} options.seed
   */
  constructor({ sizes, batchNorm, deviation, seed }) {
    const units = sizes.slice(1);
    const keys = random.split(random.key(seed), units.length);
    this.weights = units.map((n, i) => random.normal(keys.ref.slice(i), [sizes[i], n]).mul(deviation));
    this.bias = np.zeros(units.slice(-1));
    // A run that diverges is a result of the demo, not an error.
    const norm = (channels) => (batchNorm ? new BatchNorm(channels, { onNonFinite: "allow" }) : new Bias(channels));
    this.norms = units.slice(0, -1).map(norm);
    keys.dispose();
  }

  /**
   * The loss of a training batch and its gradient at every parameter. The caller owns the arrays dWeights and dBias.
   *
   * @param {{ data: Float32Array, shape: readonly number[] }} x
   * @param {Int32Array} labels
   */
  gradients(x, labels) {
    for (const norm of this.norms) norm.train();
    const last = this.norms.length;
    const inputs = [toJax(x)];
    for (let i = 0; i < last; i++) inputs.push(this.#hiddenLayer(i, inputs[i].ref).h);

    const z = product(inputs[last].ref, this.weights[last].ref);
    const [loss, dLogits, dBias] = crossEntropy(z, this.bias.ref, np.array(labels));

    const dWeights = [];
    const dNorms = [];
    let dz = dLogits;
    for (let i = last; i > 0; i--) {
      dWeights[i] = weightGradient(inputs[i].ref, dz.ref);
      const ds = fromJax(sigmoidGradient(inputGradient(dz, this.weights[i].ref), inputs[i]));
      const { dx, dGamma, dBeta } = this.#timed(() => this.norms[i - 1].backward(ds));
      dNorms[i - 1] = { dGamma, dBeta };
      dz = toJax(dx);
    }
    dWeights[0] = weightGradient(inputs[0], dz);
    return { loss: loss.item(), dWeights, dNorms, dBias };
  }

  /**
   * One step of stochastic gradient descent; returns the loss before it.
   *
   * @param {{ data: Float32Array, shape: readonly number[] }} x
   * @param {Int32Array} labels
   * @param {number} learningRate
   */
  step(x, labels, learningRate) {
    const { loss, dWeights, dNorms, dBias } = this.gradients(x, labels);
    this.weights = this.weights.map((w, i) => descend(w, dWeights[i], learningRate));
    this.bias = descend(this.bias, dBias, learningRate);
    for (const [i, { dGamma, dBeta }] of dNorms.entries()) {
      const { gamma, beta } = this.norms[i];
      dGamma?.forEach((d, c) => {
        gamma[c] -= learningRate * d;
      });
      dBeta.forEach((d, c) => {
        beta[c] -= learningRate * d;
      });
    }
    return loss;
  }

  /**
   * The likeliest class of every input, with what the last hidden layer's sigmoid got (s) and gave (h).
   *
   * @param {{ data: Float32Array, shape: readonly number[] }} x
   */
  predict(x) {
    for (const norm of this.norms) norm.eval();
    let s;
    let h = toJax(x);
    for (let i = 0; i < this.norms.length; i++) ({ s, h } = this.#hiddenLayer(i, h));
    const logits = product(h.ref, this.weights.at(-1).ref).add(this.bias.ref);
    return { classes: np.argmax(logits, -1).dataSync(), s: s.data, h: h.dataSync() };
  }

  #hiddenLayer(i, h) {
    const z = fromJax(product(h, this.weights[i].ref));
    const s = this.#timed(() => this.norms[i].forward(z));
    return { s, h: sigmoid(toJax(s)) };
  }

  #timed(call) {
    const start = performance.now();
    const result = call();
    this.normMilliseconds += performance.now() - start;
    return result;
  }
}
