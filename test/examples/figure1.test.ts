// The demo, with dist/: the gradients of its network, repeatability, the command line, and the files that it writes.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { numpy as np } from "@jax-js/jax";
import { parseHTML } from "linkedom";
import { describe, expect, it, onTestFinished } from "vitest";
import { loadDigits, PIXELS } from "../../examples/figure1/digits.mjs";
import { train } from "../../examples/figure1/train.mjs";
import { Network } from "../../examples/lab/network.mjs";
import { batchNorm, bias, groupNorm, layerNorm, noisyBatchNorm, weightNorm } from "../../examples/lab/norms.mjs";

const MAIN = fileURLToPath(new URL("../../examples/figure1/main.mjs", import.meta.url));

const demo = (...args: string[]) => spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8" });

/** The values of a jax-js array, which stays usable. */
const values = (array: np.Array) => array.ref.dataSync() as Float32Array<ArrayBuffer>;

/** Weight norm whose weights are not those that it starts from, so that nobody can take the ones for the others. */
function lengthened(...layer: Parameters<typeof weightNorm>) {
  const norm = weightNorm(...layer);
  norm.gamma.fill(1.5);
  return norm;
}

const NETWORKS = [
  { name: "batch norm, sigmoid", norm: batchNorm(), activation: "sigmoid" },
  { name: "a bias, sigmoid", norm: bias, activation: "sigmoid" },
  { name: "batch norm without affine, tanh", norm: batchNorm({ affine: false }), activation: "tanh" },
  { name: "noisy batch norm, tanh", norm: noisyBatchNorm(3), activation: "tanh" },
  { name: "batch norm, relu", norm: batchNorm(), activation: "relu" },
  { name: "layer norm, sigmoid", norm: layerNorm, activation: "sigmoid" },
  { name: "group norm, tanh", norm: groupNorm(2), activation: "tanh" },
  { name: "weight norm, tanh", norm: lengthened, activation: "tanh" },
] as const;

describe.each(NETWORKS)("the network with $name", ({ norm, activation }) => {
  const sizes = [6, 8, 6, 3]; // two groups, of more than two units: two of them normalised are 1 and -1
  const x = { data: Float32Array.from({ length: 8 * 6 }, (_, i) => Math.sin(1 + 3 * i)), shape: [8, 6] };
  const labels = Int32Array.from({ length: 8 }, (_, i) => i % 3);
  const network = new Network({ sizes, norm, activation, deviation: 1, seed: 5 });
  // in mode "batch" noise is drawn once
  const { dWeights, dNorms, ...gradients } = network.gradients(x, labels, "batch");
  const dBias = gradients.dBias as np.Array;

  // Central differences in float32: the loss is good to about 1e-7, so a quotient is good to about 1e-5.
  const h = 5e-3;
  const atol = 1e-4;

  function expectGradient(gradient: Float32Array, lossAt: (i: number, shift: number) => number) {
    const numeric = gradient.map((_, i) => (lossAt(i, h) - lossAt(i, -h)) / (2 * h));
    expect(gradient).toBeAllclose(numeric, { rtol: 5e-3, atol });
    // A gradient near 0 would prove nothing.
    expect(Math.max(...gradient.map(Math.abs))).toBeGreaterThan(30 * atol);
  }

  /** The loss with one element of an array that the network reads in place shifted. */
  function lossInPlace(parameter: Float32Array, i: number, shift: number) {
    const before = parameter[i] as number;
    parameter[i] = before + shift;
    const { loss } = network.gradients(x, labels, "batch");
    parameter[i] = before;
    return loss;
  }

  /** The loss with one element of a jax-js array shifted, which `assign` puts in its place. */
  function lossWith(array: np.Array, i: number, shift: number, assign: (array: np.Array) => void) {
    const data = values(array);
    data[i] = (data[i] as number) + shift;
    assign(np.array(data, { shape: array.shape }));
    const { loss } = network.gradients(x, labels, "batch");
    assign(array);
    return loss;
  }

  it.each([0, 1, 2])("differentiates by the weights of layer %i", (layer) => {
    const weights = network.weights[layer] as np.Array;
    const assign = (array: np.Array) => {
      network.weights[layer] = array;
    };
    expectGradient(values(dWeights[layer] as np.Array), (i, shift) => lossWith(weights, i, shift, assign));
  });

  it("differentiates by the bias of the last layer", () => {
    const bias = network.bias as np.Array;
    const assign = (array: np.Array) => {
      network.bias = array;
    };
    expectGradient(values(dBias as np.Array), (i, shift) => lossWith(bias, i, shift, assign));
  });

  it.each([0, 1])("differentiates by gamma and beta of hidden layer %i", (layer) => {
    const { gamma, beta } = network.norms[layer] as { gamma?: Float32Array; beta?: Float32Array };
    const { dGamma, dBeta } = dNorms[layer] as { dGamma?: Float32Array; dBeta?: Float32Array };
    for (const [parameter, gradient] of [
      [gamma, dGamma],
      [beta, dBeta],
    ]) {
      if (parameter) expectGradient(gradient as Float32Array, (i, shift) => lossInPlace(parameter, i, shift));
      else expect(gradient).toBeUndefined();
    }
  });

  it("moves every parameter against its gradient, by the learning rate", () => {
    const moved = new Network({ sizes, norm, activation, deviation: 1, seed: 5 });
    moved.step(x, labels, 0.5);
    for (const [i, d] of dWeights.entries()) {
      const expected = values(network.weights[i] as np.Array).map((w, j) => w - 0.5 * (values(d)[j] as number));
      expect(values(moved.weights[i] as np.Array)).toBeAllclose(expected, { atol: 1e-6 });
    }
    expect(values(moved.bias as np.Array)).toBeAllclose(
      values(dBias as np.Array).map((d) => -0.5 * d),
      { atol: 1e-6 },
    );
    for (const [i, { dGamma, dBeta }] of dNorms.entries()) {
      const { gamma, beta } = moved.norms[i] as { gamma?: Float32Array; beta?: Float32Array };
      const start = network.norms[i] as { gamma: Float32Array; beta: Float32Array };
      const stepped = (from: Float32Array, d: Float32Array) => from.map((value, c) => value - 0.5 * (d[c] as number));
      if (beta) expect(beta).toBeAllclose(stepped(start.beta, dBeta), { atol: 1e-6 });
      if (gamma) expect(gamma).toBeAllclose(stepped(start.gamma, dGamma), { atol: 1e-6 });
    }
  });

  it("is a point among its parameters, which moves along the slope as the loss says", () => {
    const start = network.parameters;
    const { loss, gradient } = network.slope(x, labels);
    expect(gradient).toHaveLength(start.length);
    const square = gradient.reduce((sum, g) => sum + g * g, 0);
    const lossAt = (distance: number) => {
      network.parameters = start.map((value, i) => value - distance * (gradient[i] as number));
      return network.slope(x, labels).loss;
    };
    const fall = (lossAt(-1e-3) - lossAt(1e-3)) / 2e-3;
    expect(fall / square).toBeCloseTo(1, 1);
    expect(lossAt(0)).toBe(loss);
    expect(network.parameters).toEqual(start);
  });
});

describe("batch norm in the network", () => {
  const sizes = [6, 5, 3];
  const x = { data: Float32Array.from({ length: 4 * 6 }, (_, i) => Math.cos(i * i)), shape: [4, 6] };
  const labels = Int32Array.of(0, 1, 2, 0);

  it.each([
    [true, "does not matter"],
    [false, "matters"],
  ])("%s: in training the scale of the weights below it %s", (normalized) => {
    const lossAt = (scale: number) => {
      const network = new Network({ sizes, norm: normalized ? batchNorm() : bias, deviation: 1, seed: 2 });
      network.weights[0] = (network.weights[0] as np.Array).mul(scale);
      return network.gradients(x, labels).loss;
    };
    const change = Math.abs(lossAt(3) - lossAt(1));
    if (normalized) expect(change).toBeLessThan(1e-4);
    else expect(change).toBeGreaterThan(1e-2);
  });

  it("predicts each input by itself, and learns nothing from it", () => {
    const network = new Network({ sizes, norm: batchNorm(), deviation: 1, seed: 2 });
    network.gradients(x, labels);
    const together = network.predict(x);
    const alone = network.predict({ data: x.data.slice(0, 6), shape: [1, 6] });
    expect(alone.s).toBeAllclose(together.s.slice(0, 5), { rtol: 1e-6, atol: 1e-6 });
    expect(network.predict(x)).toEqual(together);
  });
});

describe("the digits", () => {
  const { train: forTraining, test: forTest } = loadDigits(1);
  const images = ({ images }: typeof forTest) =>
    Array.from({ length: images.length / PIXELS }, (_, i) => images.slice(i * PIXELS, (i + 1) * PIXELS).join());

  it("are 10,000, none of them both for training and for the test", () => {
    const trained = new Set(images(forTraining));
    expect(forTraining.labels.length + forTest.labels.length).toBe(10_000);
    expect(images(forTest).filter((image) => trained.has(image))).toEqual([]);
  });

  it("come in an order that the seed decides", () => {
    const again = loadDigits(1).test;
    expect(again.labels).toEqual(forTest.labels);
    expect(images(again).join() === images(forTest).join()).toBe(true);
    expect(loadDigits(2).test.labels).not.toEqual(forTest.labels);
  });
});

describe("a run", () => {
  const digits = loadDigits(1);
  const evaluations = (seed: number) =>
    train({ batchNorm: true, learningRate: 0.5, steps: 10, seed }, digits, () => {}).evaluations;

  it("repeats itself for the same seed, and for no other", () => {
    const first = evaluations(3);
    expect(first).toHaveLength(10);
    expect(evaluations(3)).toEqual(first);
    expect(evaluations(4)).not.toEqual(first);
  });

  it("that loses its numbers ends early and counts as diverged", () => {
    const run = { batchNorm: true, learningRate: 1e38, steps: 100, seed: 1 };
    let done = 0;
    const result = train(run, digits, (steps: number) => {
      done += steps;
    });
    expect(result.diverged).toBe(true);
    expect(result.evaluations.at(-1)?.step).toBeLessThan(100);
    expect(done).toBe(100);
  });
});

describe("the command line", () => {
  it("explains every option", () => {
    const { status, stdout } = demo("--help");
    expect(status).toBe(0);
    for (const name of ["--steps", "--learning-rate", "--seed", "--out", "--help"]) expect(stdout).toContain(name);
  });

  it.each([
    [["--step", "5"], "Unknown option '--step'"],
    [["--steps", "0"], '--steps: expected a whole number from 1 to 1000000, got "0"'],
    [["--steps", "1.5"], '--steps: expected a whole number from 1 to 1000000, got "1.5"'],
    [["--learning-rate=-1"], '--learning-rate: expected a number above 0, got "-1"'],
    [["--learning-rate", "fast"], '--learning-rate: expected a number above 0, got "fast"'],
    [["--seed", ""], '--seed: expected a whole number from 0 to 4294967295, got ""'],
    [["--seed", "-1"], "Option '--seed' argument is ambiguous."],
    [["--out", "figure1.png"], '--out: expected a file name that ends in .html, got "figure1.png"'],
    [["--out", "no/such/folder/figure1.html"], '--out: there is no folder "no/such/folder"'],
  ])("refuses %j in one line", (args, message) => {
    const { status, stderr, stdout } = demo(...args);
    expect(stderr).toBe(`${message} (--help explains the options)\n`);
    expect(stdout).toBe("");
    expect(status).toBe(2);
  });

  it("prints the table and writes a page and a picture that need no other file", () => {
    const folder = mkdtempSync(join(tmpdir(), "figure1-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const out = join(folder, "curves.html");
    const { status, stdout, stderr } = demo("--steps", "4", "--learning-rate", "0.1", "--seed", "7", "--out", out);
    expect(status, stderr).toBe(0);
    expect(stderr).toContain("24 of 24 steps");

    const runs = [...stdout.matchAll(/^\| +([\d.]+) \| (with|without) /gm)].map(([, rate, norm]) => `${rate} ${norm}`);
    expect(runs).toEqual(["0.1 without", "0.1 with", "1 without", "1 with", "3 without", "3 with"]);

    const svg = readFileSync(join(folder, "curves.svg"), "utf8");
    const html = readFileSync(out, "utf8");
    const { document } = parseHTML(html);
    // Six curves of accuracy; then the three percentiles, with and without.
    expect(document.querySelectorAll('svg g[aria-label="line"] path')).toHaveLength(12);
    expect(document.querySelectorAll("tbody tr")).toHaveLength(6);
    expect(html).toContain(svg);
    expect(html.replaceAll("http://www.w3.org/", "")).not.toMatch(/https?:|<script|<link|src=/);
  });
});
