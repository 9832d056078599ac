// What the lab's networks may have in the place of batch norm. Gradients are tested with the network, in test/examples.

import type { numpy as np } from "@jax-js/jax";
import { describe, expect, it } from "vitest";
import { Network } from "../../examples/lab/network.mjs";
import { batchNorm, bias, groupNorm, layerNorm, weightNorm } from "../../examples/lab/norms.mjs";

const SIZES = [6, 8, 4, 3];
const x = { data: Float32Array.from({ length: 32 * 6 }, (_, i) => 2 + Math.sin(1 + i * i)), shape: [32, 6] };
const labels = Int32Array.from({ length: 32 }, (_, i) => i % 3);

type Options = ConstructorParameters<typeof Network>[0];
const networkOf = (norm: Options["norm"]) =>
  new Network({ sizes: SIZES, norm, activation: "tanh", deviation: 1, seed: 5 });

/** Means and biased variances of groups of `length` values that lie together. */
function moments(values: Float32Array, length: number) {
  return Array.from({ length: values.length / length }, (_, g) => {
    const group = values.subarray(g * length, (g + 1) * length);
    const mean = group.reduce((a, b) => a + b, 0) / length;
    return { mean, variance: group.reduce((sum, value) => sum + (value - mean) ** 2, 0) / length };
  });
}

/** The values of every unit, one unit after the other. */
const byUnit = (values: Float32Array, units: number) =>
  Float32Array.from(values, (_, i) => {
    const samples = values.length / units;
    return values[(i % samples) * units + Math.floor(i / samples)] as number;
  });

function expectNormal(values: Float32Array, length: number) {
  for (const { mean, variance } of moments(values, length)) {
    expect(mean).toBeCloseTo(0, 5);
    expect(variance).toBeCloseTo(1, 2); // epsilon counts where few values are close together
  }
}

describe.each([
  { name: "layer norm", norm: layerNorm, groups: 1 },
  { name: "group norm", norm: groupNorm(2), groups: 2 },
])("$name", ({ norm, groups }) => {
  const layer = norm(6);
  const { data } = layer.forward(x);

  it("gives each group of a sample mean 0 and variance 1, then has gamma and beta", () => {
    expectNormal(data, 6 / groups);
    const shifted = norm(6);
    shifted.gamma.set([1, 2, 3, 4, 5, 6]);
    shifted.beta.fill(7);
    const expected = data.map((value: number, i: number) => value * ((i % 6) + 1) + 7);
    expect(shifted.forward(x).data).toBeAllclose(expected, { rtol: 1e-6, atol: 1e-6 });
  });

  it("gives a sample the same in a batch and alone", () => {
    expect(layer.forward({ data: x.data.slice(0, 6), shape: [1, 6] }).data).toEqual(data.slice(0, 6));
  });
});

describe("weight norm", () => {
  it("starts as the network with a bias alone", () => {
    const [normalized, plain] = [weightNorm, bias].map((norm) => networkOf(norm).predict(x, labels));
    expect(normalized?.probabilities).toBeAllclose(plain?.probabilities as Float32Array, { rtol: 1e-5, atol: 1e-6 });
  });

  it("starts from data with mean 0 and variance 1 of every unit, and other networks stay as they are", () => {
    const network = networkOf(weightNorm);
    network.initialize(x);
    for (const [i, s] of network.gradients(x, labels).signals.entries())
      expectNormal(byUnit(s, SIZES[i + 1] as number), 32);
    for (const norm of [batchNorm(), bias, layerNorm]) {
      const other = networkOf(norm);
      const before = other.parameters;
      other.initialize(x);
      expect(other.parameters).toEqual(before);
    }
  });

  it("learns lengths by gamma alone: scaling the weights changes nothing, and their gradient is at right angles", () => {
    const network = networkOf(weightNorm);
    const { loss, dWeights } = network.gradients(x, labels);
    const [v, dv] = [network.weights[0], dWeights[0]].map((array) => byUnit((array as np.Array).ref.dataSync(), 8));
    for (let unit = 0; unit < 8; unit++) {
      const [a, b] = [v, dv].map((all) => all?.subarray(unit * 6, unit * 6 + 6) as Float32Array);
      const dot = (p: Float32Array, q: Float32Array) => p.reduce((sum, value, i) => sum + value * (q[i] as number), 0);
      const [p, q] = [a, b] as [Float32Array, Float32Array];
      expect(dot(q, q)).toBeGreaterThan(1e-8);
      expect(Math.abs(dot(p, q)) / Math.sqrt(dot(p, p) * dot(q, q))).toBeLessThan(1e-5);
    }
    network.weights[0] = (network.weights[0] as np.Array).mul(3);
    expect(network.gradients(x, labels).loss).toBeCloseTo(loss, 5);
  });
});
