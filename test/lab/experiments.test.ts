// The lab without its page, with dist/: experiments, their data and their measures, URLs, and the headless runner.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import { parseHTML } from "linkedom";
import { describe, expect, it, onTestFinished } from "vitest";
import { judge, spread } from "../../examples/lab/common.mjs";
import { batches, digitsOf, spirals } from "../../examples/lab/data.mjs";
import { Collected, defaultsOf } from "../../examples/lab/experiment.mjs";
import { EXPERIMENTS } from "../../examples/lab/experiments/index.mjs";
import { mnistDigits } from "../../examples/lab/mnist.mjs";
import { labelled, logLabel, logRange, ruled } from "../../examples/lab/page/log-axis.mjs";
import { toJson, wrap } from "../../examples/lab/page/save.mjs";
import { legendOf, shadeOf } from "../../examples/lab/palette.mjs";
import { picture } from "../../examples/lab/picture.mjs";
import { section, withSections } from "../../examples/lab/report.mjs";
import { climb } from "../../examples/lab/sweep.mjs";
import { startTfjs } from "../../examples/lab/tfjs.mjs";
import { checked, fromQuery, toQuery } from "../../examples/lab/values.mjs";

const digits = mnistDigits();

type Experiment = (typeof EXPERIMENTS)[number];

/** Little to do, in whatever an experiment calls its amount of work. */
const LITTLE: Record<string, number> = { steps: 4, points: 3, samples: 128, images: 100, every: 2, heldOut: 100 };

const littleOf = (experiment: Experiment) =>
  Object.fromEntries(
    Object.entries(defaultsOf(experiment)).map(([name, value]) => [name, LITTLE[name] ?? value]),
  ) as Record<string, number | string>;

async function run(experiment: Experiment, values: Record<string, number | string | boolean>) {
  const collected = new Collected(experiment.charts(values));
  const progress: number[] = [];
  for await (const update of experiment.run(values, { digits }) as AsyncIterable<Parameters<Collected["add"]>[0]>) {
    collected.add(update);
    progress.push(collected.done / collected.total);
  }
  return {
    values,
    charts: collected.charts as Record<string, Record<string, unknown>>,
    facts: collected.facts,
    progress,
  };
}

const ran = new Map<string, ReturnType<typeof run>>();
/** A run with little to do, once for all tests. */
const little = (experiment: Experiment) => {
  if (!ran.has(experiment.id)) ran.set(experiment.id, run(experiment, littleOf(experiment)));
  return ran.get(experiment.id) as ReturnType<typeof run>;
};

it("has the ten experiments of the page's list", () => {
  expect(EXPERIMENTS.map(({ id }) => id)).toEqual([
    ...["figure1", "learning-rate", "initialisation", "saturation", "smoothness"],
    ...["batch-size", "which-norm", "regularisation", "gamma-beta", "lenet"],
  ]);
});

describe.each(EXPERIMENTS)("$id", (experiment) => {
  it("says in three sentences what it is, with its sources, and starts with values that its controls allow", () => {
    expect(experiment.text.replaceAll("et al.", "").match(/\.( |$)/g)).toHaveLength(3);
    for (const { url } of experiment.sources) expect(new URL(url).protocol).toBe("https:");
    const texts = Object.fromEntries(Object.entries(defaultsOf(experiment)).map(([name, value]) => [name, `${value}`]));
    expect(checked(experiment, texts)).toEqual({ values: defaultsOf(experiment), problems: [] });
  });

  it("has data of every series in every chart, and comes to its end", async () => {
    const { values, charts, progress } = await little(experiment);
    expect(progress.at(-1)).toBe(1);
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
    for (const chart of experiment.charts(values))
      for (const { id } of chart.series) {
        const data = charts[chart.id]?.[id] as number[][] & { edges?: number[]; shares?: number[]; values?: number[] };
        const where = `${chart.id}, ${id}`;
        if (chart.kind === "lines" || chart.kind === "bands") {
          expect(data.length, where).toBeGreaterThan(0);
          for (const point of data) expect(point, where).toHaveLength(chart.kind === "lines" ? 2 : 4);
          expect(data.flat().some(Number.isFinite), where).toBe(true);
          if (chart.kind === "bands")
            for (const [, low, , high] of data) expect(low).toBeLessThanOrEqual(high as number);
        } else if (chart.kind === "histogram") {
          expect(data.edges, where).toHaveLength((data.shares?.length ?? 0) + 1);
          expect(data.shares?.reduce((a, b) => a + b)).toBeCloseTo(1);
        } else
          expect(
            data.values?.every((p) => p >= 0 && p <= 1),
            where,
          ).toBe(true);
      }
  });

  it("does the same again for the same values, and something else for another seed", async () => {
    const values = littleOf(experiment);
    const first = await little(experiment);
    const { charts, facts } = await run(experiment, values);
    expect(charts).toEqual(first.charts);
    expect(facts).toEqual(first.facts);
    const other = await run(experiment, { ...values, seed: 7 });
    expect(other.charts).not.toEqual(first.charts);
  });

  it("has claims, judged by numbers, and a picture with every chart", async () => {
    const first = await little(experiment);
    const claims = experiment.claims([first, first] as never);
    expect(claims.length).toBeGreaterThan(0);
    for (const { claim, source, verdict, evidence } of claims) {
      expect(claim).toMatch(/\.$/);
      expect(source).toMatch(/\d/);
      expect(["holds", "fails"]).toContain(verdict); // two runs that are the same are of one mind
      expect(evidence).toMatch(/\d|never/);
    }
    const written = section(experiment, { runs: [first], claims, environment: "Node" } as never);
    for (const text of [experiment.title, experiment.text, experiment.method ?? ""]) expect(written).toContain(text);
    const { document } = parseHTML(picture(experiment, [first, first] as never));
    const titles = [...document.querySelectorAll("text")].map((text) => text.textContent);
    for (const { title } of experiment.charts(first.values)) expect(titles).toContain(title);
    expect(document.querySelectorAll("svg svg path").length).toBeGreaterThan(0);
  });
});

describe("claims", () => {
  const rule = {
    ...{ claim: "More is more.", source: "nobody, 1" },
    measure: ({ values }: { values: { n: number } }) => ({ n: values.n }),
    holds: ({ n }: { n: number }) => n > 1,
  };
  const judged = (...all: number[]) => judge(all.map((n) => ({ values: { n } })) as never, rule as never);

  it("hold where they do for every seed, fail where for none, and are mixed otherwise", () => {
    expect(judged(2, 3)).toMatchObject({ verdict: "holds", evidence: "n: 2.5 ± 0.5" });
    expect(judged(0, 1)).toMatchObject({ verdict: "fails", evidence: "n: 0.5 ± 0.5" });
    expect(judged(0, 2)).toMatchObject({ verdict: "mixed", evidence: "n: 1 ± 1; holds for 1 of 2 seeds" });
  });

  it("say how many seeds have no number", () => {
    expect(spread([1, Number.NaN])).toBe("1 (in 1 of 2)");
    expect(spread([Number.NaN])).toBe("never");
    expect(spread([12345, 12347])).toBe("1.23e+4 ± 1");
  });

  // Data that are as the papers say, or the other way round.
  const rises = (well: boolean) =>
    well
      ? [
          [1, 10],
          [50, 96],
        ]
      : [
          [1, 10],
          [100, 95],
        ];
  const never = [
    [1, 10],
    [100, 10],
  ];
  const low = (well: boolean) => [[1, well ? 1 : 2]];
  const wanders = (well: boolean) => [1, 2, 3].map((x) => [x, -1, well ? 0 : x * x, 1]);
  const plateau = (well: boolean) =>
    well
      ? [
          [0.1, 90],
          [1, 90],
          [10, 90],
        ]
      : [
          [0.1, 85],
          [1, 50],
          [10, 10],
        ];
  const over = (small: number, regular: number) => [
    [2, small],
    [32, regular],
  ];
  const inner = (well: boolean) => ({ edges: [-10, -1, 1, 10], shares: well ? [0.1, 0.8, 0.1] : [0.4, 0.2, 0.4] });
  const each = <T>(names: string[], value: T) => Object.fromEntries(names.map((name) => [name, value]));
  const CHANNELS = ["0", "1", "2", "3", "4", "5"];

  const AS_CLAIMED: Record<string, (so: boolean) => { charts: object; facts?: object; values?: object }> = {
    figure1: (so) => ({
      charts: {
        accuracy: { with: rises(so), without: rises(!so) },
        ...{ "input-with": { with: wanders(so) }, "input-without": { without: wanders(!so) } },
      },
    }),
    "learning-rate": (so) => ({ charts: { accuracy: { with: plateau(so), without: plateau(!so) } } }),
    initialisation: (so) => ({ charts: { accuracy: { with: plateau(so), without: plateau(!so) } } }),
    saturation: (so) => ({
      values: { activation: "sigmoid" },
      charts: {
        ...each(["layer1", "layer2", "layer3", "layer4", "layer5"], { with: inner(so), without: inner(!so) }),
        "gradient-with": { 1: [[1, 1]], 5: [[1, so ? 2 : 100]] },
        "gradient-without": { 1: [[1, 1]], 5: [[1, so ? 100 : 2]] },
        accuracy: { with: rises(so), without: rises(!so) },
      },
    }),
    smoothness: (so) => ({
      charts: {
        "loss-with": { with: [[1, 0, 0, so ? 1 : 2]] },
        "loss-without": { without: [[1, 0, 0, so ? 2 : 1]] },
        ...each(["predictiveness", "beta"], { with: low(so), without: low(!so) }),
        accuracy: { with: rises(so), noisy: rises(so), without: rises(!so) },
      },
    }),
    "batch-size": (so) => ({
      charts: {
        error: {
          ema: [
            [2, 50],
            [4, 20],
            [16, so ? 10 : 60],
          ],
          ...{ batch: [[4, so ? 30 : 10]], population: [[4, so ? 10 : 30]] },
        },
        ghost: {
          ghost: [
            [32, so ? 5 : 20],
            [256, 10],
          ],
        },
      },
    }),
    "which-norm": (so) => ({
      charts: {
        error: {
          ...{ batch: over(so ? 50 : 8, 8), group: so ? over(8, 8) : over(30, 20), layer: over(12, 12) },
          ...{ weight: so ? over(8, 8) : over(30, 20), none: over(12, 12) },
        },
        search: { weight: plateau(so), none: plateau(!so), batch: plateau(so) },
      },
    }),
    regularisation: (so) => ({
      charts: { gap: { with: low(so), without: low(!so) }, test: { with: rises(so), without: rises(!so) } },
    }),
    "gamma-beta": (so) => ({
      charts: {
        inputs: { bare: inner(so), with: inner(!so) },
        loss: { with: low(so), bare: low(!so), without: low(so) },
      },
      facts: { "identity: largest error, in roundings": so ? "1" : "1000" },
    }),
    lenet: (so) => ({
      charts: {
        accuracy: { with: rises(so), without: rises(!so) },
        gamma: each(CHANNELS, [[1, so ? 1.5 : 1]]),
        beta: each(CHANNELS, [[1, so ? 0.5 : 0]]),
      },
    }),
  };
  const verdictsOf = ({ claims }: Experiment, run: object) =>
    claims([{ values: {}, facts: {}, ...run }] as never).map(({ verdict }) => verdict);

  it.each(EXPERIMENTS)(
    "of $id hold on data that are as they say, and fail where these are the other way round",
    (experiment) => {
      const of = AS_CLAIMED[experiment.id] as (so: boolean) => object;
      expect(new Set(verdictsOf(experiment, of(true)))).toEqual(new Set(["holds"]));
      expect(new Set(verdictsOf(experiment, of(false)))).toEqual(new Set(["fails"]));
    },
  );

  it.each(["figure1", "learning-rate", "lenet"])(
    "of %s count a level that is never reached as worse than any",
    (id) => {
      const experiment = EXPERIMENTS.find((e) => e.id === id) as Experiment;
      const { charts } = (AS_CLAIMED[id] as (so: boolean) => { charts: object })(true);
      const first = (a: number[][], b: number[][]) =>
        verdictsOf(experiment, { charts: { ...charts, accuracy: { with: a, without: b } } })[0];
      expect(first(rises(true), never)).toBe("holds");
      expect(first(never, rises(true))).toBe("fails");
      expect(first(never, never)).toBe("fails");
    },
  );
});

it("a sweep says from which value on networks learn nothing, and does not count what learns nothing below", async () => {
  const initialisation = EXPERIMENTS.find(({ id }) => id === "initialisation") as Experiment;
  const values = { ...defaultsOf(initialisation), from: 0.01, to: 10, points: 4, steps: 100 };
  const { facts } = await run(initialisation, values);
  expect(facts).toEqual({ "learns nothing from, without": 10 }); // at 0.01 and 0.1 neither, but at 1 it learns
});

describe("which-norm", () => {
  const experiment = EXPERIMENTS.find(({ id }) => id === "which-norm") as Experiment;

  it("chooses in batches of 32 the best of all rates, and has five norms that differ", async () => {
    const { charts } = await little(experiment);
    const { search, rate } = charts as Record<string, Record<string, number[][]>>;
    for (const [norm, points] of Object.entries(search as object) as [string, number[][]][]) {
      expect(points.map(([rate]) => rate)).toEqual([0.005, 0.32, 20.5]);
      const [best] = points.reduce((a, b) => ((b[1] as number) > (a[1] as number) ? b : a));
      expect(rate?.[norm]?.find(([size]) => size === 32)).toEqual([32, best]);
      expect(rate?.[norm]?.map(([size]) => size)).toEqual([2, 4, 8, 16, 32, 64, 128]);
    }
    expect(new Set(Object.values(charts.loss as object).map((points) => `${points}`)).size).toBe(5);
  });

  it("counts a network whose loss is no longer a number as one that has nothing right", async () => {
    const { charts } = await run(experiment, { ...littleOf(experiment), from: 1e6, to: 1e8 });
    const { search, error, loss } = charts as Record<string, Record<string, number[][]>>;
    expect(search?.none?.map(([, accuracy]) => accuracy)).toEqual([0, 0, 0]);
    expect([error?.none, loss?.none].map((points) => points?.find(([size]) => size === 32)?.[1])).toEqual([
      100,
      Number.POSITIVE_INFINITY,
    ]);
  });
});

describe("a search from one value on", () => {
  /** The rate that it ends at, and those that it tried; the accuracy falls with the distance to the peak. */
  const searched = (accuracy: (rate: number) => number, start: number) => {
    const tried: number[] = [];
    function* attempt(rate: number): Generator<undefined, { rate: number; accuracy: number }> {
      tried.push(rate);
      yield;
      return { rate, accuracy: accuracy(rate) };
    }
    const search = climb(attempt, start, (rate: number, by: number) => rate * 2 ** by);
    let step = search.next();
    while (!step.done) step = search.next();
    return { found: step.value.rate, tried };
  };
  const peak = (at: number) => (rate: number) => -Math.abs(Math.log2(rate / at));

  it("ends where no neighbour is better", () => {
    expect(searched(peak(1), 1)).toEqual({ found: 1, tried: [1, 0.5, 2] });
    expect(searched(peak(0.25), 1)).toEqual({ found: 0.25, tried: [1, 0.5, 0.25, 0.125] });
    expect(searched(peak(4), 1)).toEqual({ found: 4, tried: [1, 0.5, 2, 4, 8] });
    expect(searched(() => 0, 1)).toEqual({ found: 1, tried: [1, 0.5, 2] });
  });
});

describe("data", () => {
  it("digits are the bytes of MNIST, shuffled by a seed, in sets that share no image", () => {
    expect(digits.pixels).toHaveLength(10_000 * 784);
    expect(Math.max(...digits.pixels.subarray(0, 7840))).toBeGreaterThan(250);
    const sizes = { train: 300, test: 100 };
    const a = digitsOf(digits, { seed: 1, ...sizes });
    expect(a.train.labels).toHaveLength(300);
    expect(a.test.images).toHaveLength(100 * 784);
    expect(digitsOf(digits, { seed: 1, ...sizes })).toEqual(a);
    expect(digitsOf(digits, { seed: 2, ...sizes })).not.toEqual(a);
    const rows = ({ images }: { images: Float32Array }, n: number) =>
      Array.from({ length: n }, (_, i) => images.subarray(i * 784, (i + 1) * 784).join());
    const all = [...rows(a.train, 300), ...rows(a.test, 100)];
    expect(new Set(all).size).toBe(all.length);
    expect(new Set(a.train.labels).size).toBe(10);
  });

  it("spirals are two arms of as many points", () => {
    const { train, test } = spirals({ seed: 1, train: 200, test: 100 });
    expect([train.labels.filter((l) => l === 1).length, test.labels.length]).toEqual([100, 100]);
    expect(Math.max(...train.images.map(Math.abs))).toBeLessThan(1.3);
  });

  it("batches go through every sample once in an epoch, and say where there are too few", () => {
    const samples = {
      images: Float32Array.from({ length: 20 }, (_, i) => i),
      labels: Int32Array.from({ length: 10 }, (_, i) => i),
    };
    const of = batches(samples, 5);
    const epoch = [of.next().value, of.next().value].flatMap((b) => [...(b as { labels: Int32Array }).labels]);
    expect([...epoch].sort()).toEqual([...samples.labels]);
    const { x, labels } = of.next().value as { x: { data: Float32Array }; labels: Int32Array };
    expect([...x.data.filter((_, i) => i % 2 === 0)]).toEqual([...labels].map((l) => 2 * l));
    expect(() => batches(samples, 11).next()).toThrow("size: expected at most 10 samples, all there are, got 11");
  });
});

describe("values as text", () => {
  const learningRate = EXPERIMENTS[1] as Experiment;

  it("make a URL and come back from it", () => {
    const values = { ...defaultsOf(learningRate), steps: 50, from: 1e-3, data: "spirals", seed: 9 };
    const query = toQuery(learningRate, values);
    expect(query).toBe("experiment=learning-rate&from=0.001&steps=50&data=spirals&seed=9");
    expect(fromQuery(query, EXPERIMENTS)).toEqual({ experiment: learningRate, values, run: false, problems: [] });
    expect(fromQuery(`${query}&run=1`, EXPERIMENTS).run).toBe(true);
    expect(fromQuery("", EXPERIMENTS)).toMatchObject({
      values: defaultsOf(EXPERIMENTS[0] as Experiment),
      problems: [],
    });
  });

  it("are corrected where they are wrong, and say so", () => {
    const { values, problems } = fromQuery(
      "experiment=learning-rate&steps=7.6&points=4.6&batch=1&seed=x&activation=gelu&size=3&from=1e99",
      EXPERIMENTS,
    );
    expect(values).toMatchObject({ steps: 10, points: 5, batch: 2, seed: 1, activation: "relu", from: 1000 });
    expect(problems).toEqual([
      'steps: expected a whole number from 10 to 5000, got "7.6"',
      'points: expected a whole number from 3 to 61, got "4.6"',
      'batch: expected a whole number from 2 to 1000, got "1"',
      'seed: expected a whole number from 0 to 2147483647, got "x"',
      'activation: expected sigmoid or tanh or relu, got "gelu"',
      expect.stringMatching(/^size: expected a control among from, to, /),
      'from: expected a number from 0.00001 to 1000, got "1e99"',
    ]);
    expect(fromQuery("experiment=none", EXPERIMENTS).problems[0]).toMatch(
      /^experiment: expected figure1, .* got "none"$/,
    );
  });

  it("and data are saved as JSON, null for what is no number", () => {
    const collected = new Collected([{ id: "loss", series: [{ id: "with" }] }] as never);
    collected.add({
      done: 1,
      total: 2,
      append: {
        loss: {
          with: [
            [1, Number.NaN],
            [2, Number.POSITIVE_INFINITY],
            [3, 0.5],
          ],
        },
      },
    });
    const values = defaultsOf(learningRate);
    const saved = JSON.parse(
      toJson({ experiment: learningRate, values, collected, version: "1.2.3", url: "http://x/#y" } as never),
    );
    expect(saved).toMatchObject({
      library: "batchnorm-wasm 1.2.3",
      experiment: "learning-rate",
      values,
      done: 1,
      total: 2,
    });
    expect(saved.charts.loss.with).toEqual([
      [1, null],
      [2, null],
      [3, 0.5],
    ]);
  });
});

describe("a logarithmic axis", () => {
  /** All marks of powers of ten. */
  const marks = (first: number, last: number) =>
    Array.from({ length: last - first + 1 }, (_, i) => i + first).flatMap((power) =>
      [1, 2, 3, 4, 5, 6, 7, 8, 9].map((digit) => digit * 10 ** power),
    );
  const labels = (all: number[]) => labelled(all).map(logLabel).filter(Boolean);

  it.each([
    [1, 256, [1, 300]],
    [0.3, 2.6, [0.3, 3]],
    [0.01, 10, [0.01, 10]],
    [5, 5.5, [5, 6]],
    [0.2, 0.2, [0.02, 2]],
    [1e-7, 2.4e24, [1e-7, 3e24]],
    [null, null, [null, null]],
  ])("spans %s to %s from mark to mark", (min, max, range) => {
    expect(logRange(min, max)).toEqual(range);
  });

  it("has labels that do not crowd, over less than a decade and over thirty", () => {
    expect(labels([2, 3, 4, 5, 6])).toEqual(["2", "3", "4", "5", "6"]);
    expect(labels(marks(-1, 0))).toEqual(["0.1", "0.2", "0.5", "1", "2", "5"]);
    expect(labels(marks(-4, -1))).toEqual(["1e-4", "0.001", "0.01", "0.1"]);
    for (const last of [4, 7, 14, 30]) {
      const there = labels(marks(0, last));
      expect(there.length, `${last}`).toBeGreaterThan(3);
      expect(there.length, `${last}`).toBeLessThan(10);
    }
  });

  it("has lines for all marks of few decades, and for labels alone of many", () => {
    expect(ruled(marks(-1, 1))).toEqual(marks(-1, 1));
    expect(ruled(marks(0, 20))).toEqual(labelled(marks(0, 20)));
  });
});

describe("legends", () => {
  const chart = (kind: string, count: number) => ({
    kind,
    series: Array.from({ length: count }, (_, color) => ({ id: `${color}`, label: `line ${color}`, color })),
  });
  it("tell six lines apart without their colours", () => {
    const entries = legendOf(chart("lines", 6) as never, "light");
    expect(new Set(entries.map(({ dash }) => `${dash}`)).size).toBe(6);
    expect(legendOf(chart("lines", 1) as never, "light")).toEqual([]);
  });
  it("of a map have the symbols of both classes and the shades of every probability", () => {
    const entries = legendOf(chart("map", 1) as never, "dark");
    expect(entries.map(({ label }) => label)).toEqual([
      ...["sample of class 0", "sample of class 1", "class 1 has probability 0–0.2"],
      ...["0.2–0.4", "0.4–0.6", "0.6–0.8", "0.8–1"],
    ]);
    expect(new Set(entries.map(({ path, fill, alpha }) => `${path} ${fill} ${alpha}`)).size).toBe(7);
    expect([0, 0.2, 0.21, 0.5, 1].map((p) => shadeOf(p)?.from)).toEqual([0, 0, 0.2, 0.4, 0.8]);
    expect(shadeOf(Number.NaN)).toBeUndefined();
  });
});

describe("the legend of a saved picture", () => {
  it("goes on in another line before it leaves its chart, and keeps its order", () => {
    const lines = wrap([40, 50, 30, 200, 10], (width: number) => width, 10, 100);
    expect(lines).toEqual([
      [
        { thing: 40, x: 0 },
        { thing: 50, x: 50 },
      ],
      [{ thing: 30, x: 0 }],
      [{ thing: 200, x: 0 }],
      [{ thing: 10, x: 0 }],
    ]);
    expect(wrap([], () => 0, 10, 100)).toEqual([]);
  });
});

describe("LeNet's gradient that TF.js's wasm backend lacks", () => {
  it("is that of its cpu backend", async () => {
    const x = Float32Array.from({ length: 3 * 8 * 8 * 2 }, (_, i) => Math.sin(i * i));
    const w = Float32Array.from({ length: 5 * 5 * 2 * 4 }, (_, i) => Math.cos(i * 3));
    const f = (x: tf.Tensor, w: tf.Tensor) =>
      tf.sum(
        tf.square(tf.avgPool(tf.sigmoid(tf.conv2d(x as tf.Tensor4D, w as tf.Tensor4D, 1, "valid")), 2, 2, "valid")),
      );
    const gradients = () =>
      tf
        .grads(f)([tf.tensor4d(x, [3, 8, 8, 2]), tf.tensor4d(w, [5, 5, 2, 4])])
        .map((t) => t.dataSync());
    await tf.setBackend("cpu");
    const expected = gradients();
    await startTfjs();
    expect(tf.getBackend()).toBe("wasm");
    for (const [i, d] of gradients().entries()) expect(d).toBeAllclose(expected[i] as Float32Array, { atol: 1e-5 });
    const padded = (w: tf.Tensor) => tf.sum(tf.conv2d(tf.tensor4d(x, [3, 8, 8, 2]), w as tf.Tensor4D, 1, "same"));
    expect(() => tf.grad(padded)(tf.tensor4d(w, [5, 5, 2, 4]))).toThrow('expected strides 1 and pad "valid"');
  });
});

describe("the headless runner", () => {
  const MAIN = fileURLToPath(new URL("../../examples/lab/run.mjs", import.meta.url));
  const lab = (...args: string[]) => spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8" });

  it("runs over seeds, prints the verdicts, and writes a section and a picture", () => {
    const folder = mkdtempSync(join(tmpdir(), "lab-"));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const out = join(folder, "found.md");
    const { status, stdout, stderr } = lab("gamma-beta", "--seeds", "2", "--set", "steps=20", "--out", out);
    expect(stderr).not.toMatch(/error/i);
    expect(status).toBe(0);
    expect(stdout).toMatch(/^(holds|fails|mixed) .*standard deviation and mean/m);
    const text = readFileSync(out, "utf8");
    expect(text).toMatch(/## What gamma and beta are for[\s\S]*\| \*\*(holds|fails|mixed)\*\* \|[\s\S]*seeds 1 to 2/);
    expect(text).toContain("steps 20");
    expect(text).toContain("(experiments/gamma-beta.svg)");
    expect(readFileSync(join(folder, "experiments/gamma-beta.svg"), "utf8")).toMatch(/^<svg/);
  });

  it.each([
    [[], "expected an experiment, got none: figure1"],
    [["figure2"], 'or all, got "figure2"'],
    [["figure1", "--seeds", "0"], '--seeds: expected a whole number from 1 to 1000, got "0"'],
    [["figure1", "--set", "steps"], '--set: expected name=value, got "steps"'],
    [["figure1", "--set", "steps=-1"], '--set: steps: expected a whole number from 10 to 20000, got "-1"'],
    [["figure1", "--out", "x.txt"], "--out: expected a file name that ends in .md"],
    [["figure1", "--out", "nowhere/x.md"], '--out: there is no folder "nowhere"'],
    [["figure1", "--fast"], "Unknown option '--fast'"],
  ])("refuses %j and says why", (args, message) => {
    const { status, stderr } = lab(...(args as string[]));
    expect(status).toBe(2);
    expect(stderr).toContain(message);
  });

  it("keeps the sections of what it did not run, in the order of the list", () => {
    const part = (id: string, text: string) => `<!-- lab:${id} -->\n\n${text}\n\n<!-- /lab:${id} -->`;
    const before = withSections("", { b: part("b", "old b"), c: part("c", "old c") }, ["a", "b", "c"]);
    const after = withSections(before, { a: part("a", "new a"), c: part("c", "new c") }, ["a", "b", "c"]);
    expect(after.match(/^(old|new) \w/gm)).toEqual(["new a", "old b", "new c"]);
    expect(after.match(/^# /gm)).toHaveLength(1);
    expect(after).toContain("of 0 claims 0 hold");
    const table = "| claim |\n| A. | b, 1 | **fails** | 1 |\n| B. | b, 2 | **holds** | 1 |";
    const counted = withSections("", { a: part("a", `## A title\n\n${table}`) }, ["a"]);
    expect(counted).toContain("of 2 claims 1 holds, 0 are mixed, and 1 fails.");
    expect(counted).toMatch(/\| A title +\| +1 \| +\| +1 \| \[run it\]\(\/lab\/#experiment=a\) \|/);
    expect(counted).toContain("- **fails**: A.");
  });
});

it("docs/results/experiments.md has every experiment, its claims and its picture", () => {
  const root = new URL("../../", import.meta.url);
  const text = readFileSync(new URL("docs/results/experiments.md", root), "utf8");
  for (const { id, title, method, guides } of EXPERIMENTS) {
    const section = text.slice(text.indexOf(`<!-- lab:${id} -->`), text.indexOf(`<!-- /lab:${id} -->`));
    expect(section).toContain(`## ${title}`);
    if (method) expect(section).toContain(method);
    expect(section).toMatch(/\*\*(holds|fails|mixed)\*\*/);
    expect(readFileSync(new URL(`docs/results/experiments/${id}.svg`, root), "utf8")).toMatch(/^<svg/);
    expect(section).toContain(`(/lab/#experiment=${id})`);
    expect(guides.length).toBeGreaterThan(0);
    for (const { text, path } of guides) {
      expect(section).toContain(`[${text}](../${path}.md)`);
      expect(readFileSync(new URL(`docs/${path}.md`, root), "utf8")).toContain(`# ${text}\n`);
    }
  }
});
