// The model of docs/results/scaling.md, against known costs of algorithms and against limits that every simulation must keep.
// The numbers in the document are those of the model.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { random } from "../../bench/data.mjs";
import {
  costOf,
  exchangesOf,
  HEADER,
  MPI,
  mergeSeconds,
  secondsOf,
  simulate,
  stepCost,
  stepSeconds,
} from "../../bench/scaling/model.mjs";
import { SyncBatchNorm } from "../../src/index.ts";

const exchanges = exchangesOf();
const FREE = { alpha: 0, beta: 0 };
const NETWORK = { alpha: 1e-3, beta: 1e-8 };

describe("exchanges of ResNet-50", () => {
  it("are 53 gathers of 2C + 1 numbers and as many the other way round over 26,560 channels, each after its header", () => {
    expect(exchanges).toHaveLength(2 * 53);
    const bytes = exchanges.map(({ gathers }) => gathers.map((gather) => gather.bytes));
    expect(bytes.every((each) => each.length === 1)).toBe(true);
    expect(bytes.flat().reduce((sum, each) => sum + each, 0)).toBe(2 * 8 * (2 * 26_560 + 53 * (HEADER + 1)));
    expect(bytes[0]).toEqual([8 * (HEADER + 129)]);
    expect(bytes.at(-1)).toEqual(bytes[0]);
  });

  it("have the lengths of SyncBatchNorm's packets", () => {
    const lengths: number[] = [];
    const gather = (own: Float64Array, all: Float64Array) => {
      lengths.push(own.length);
      all.set(own);
    };
    const bn = new SyncBatchNorm(64, { group: { rank: 0, size: 1, sum() {}, gather } });
    bn.forward({ data: new Float32Array(256).map((_, i) => i % 7), shape: [4, 64] });
    bn.backward({ data: new Float32Array(256), shape: [4, 64] });
    expect(lengths.map((length) => 8 * length)).toEqual(
      [exchanges[0], exchanges.at(-1)].map((exchange) => exchange?.gathers[0]?.bytes),
    );
  });

  it("are two gathers in mpiGroup if a packet does not fit the first one", () => {
    const channels = [64, 256, 512];
    const gathers = exchangesOf(
      MPI,
      channels.map((channels) => ({ channels })),
    ).map((exchange) => exchange.gathers.map(({ bytes }) => bytes / 8));
    expect(gathers.slice(0, 3)).toEqual([[544], [544], [544, HEADER + 1025]]);
  });

  it.each(["ring", "tree"] as const)("cost nothing on one rank, by a %s", (algorithm) => {
    expect(stepCost(exchanges, algorithm, 1)).toEqual({ messages: 0, bytes: 0 });
  });
});

describe("algorithms", () => {
  /** Sends of a rank, played through: what is known after each message. */
  it("a gather ends when a rank has what every rank has", () => {
    for (const ranks of [2, 4, 8, 16]) {
      const bytes = 100;
      let known = 1;
      let [messages, sent] = [0, 0];
      for (; known < ranks; known *= 2, messages++) sent += known * bytes; // doubling
      expect(costOf({ kind: "gather", bytes }, "tree", ranks)).toEqual({ messages, bytes: sent });
      expect(costOf({ kind: "gather", bytes }, "ring", ranks)).toEqual({ messages: ranks - 1, bytes: sent });
    }
  });

  it("a sum by a ring sends every R-th of it twice to all others; by a tree, all of it to one after the other", () => {
    const sum = { kind: "sum", bytes: 1200 } as const;
    expect(costOf(sum, "ring", 4)).toEqual({ messages: 6, bytes: 6 * 300 });
    expect(costOf(sum, "tree", 4)).toEqual({ messages: 2, bytes: 2 * 1200 });
    expect(costOf(sum, "tree", 5).messages).toBe(3);
  });

  it("a tree is faster for what is short, a ring for long sums over many ranks", () => {
    const seconds = (bytes: number) =>
      (["ring", "tree"] as const).map((algorithm) => secondsOf({ kind: "sum", bytes }, algorithm, 64, NETWORK));
    const [[ring, tree], [longRing, longTree]] = [seconds(1e3), seconds(1e9)] as [number[], number[]];
    expect(tree).toBeLessThan(ring as number);
    expect(longRing).toBeLessThan(longTree as number);
  });
});

describe("the simulation", () => {
  const run = (options: object) =>
    simulate({ ranks: 16, part: 16, compute: 1, jitter: [1e-2], network: FREE, steps: 3, next: random(1), ...options });

  it("has nobody wait where all are equally fast and messages take no time", () => {
    const { seconds, waiting, exchanging } = run({});
    expect(seconds).toBeCloseTo(1, 10);
    expect(waiting).toBeCloseTo(0, 10);
    expect(exchanging).toBe(0);
  });

  it("takes as long for exchanges as the model, the faster algorithm for each", () => {
    const fastest = exchanges.reduce(
      (sum, exchange) =>
        sum + Math.min(...(["ring", "tree"] as const).map((a) => stepSeconds([exchange], a, 16, NETWORK))),
      0,
    );
    expect(run({ network: NETWORK }).exchanging).toBeCloseTo(fastest, 10);
    const merged = run({ network: { ...NETWORK, merging: 1e-8 } }).exchanging;
    expect(merged - fastest).toBeCloseTo(mergeSeconds(exchanges, 16, 1e-8), 10);
    expect(mergeSeconds(exchanges, 16, 1e-8)).toBeCloseTo(2 * 16 * 26_560 * 1e-8, 10);
    expect(run({ network: { ...NETWORK, merging: 1e-8 }, part: 1 }).exchanging).toBe(0);
  });

  it("waits for the slowest of a part, more so in larger parts, and for nobody where none is synchronised", () => {
    const jitter = [5e-3, 15e-3];
    const [all, parts, none] = [16, 4, 1].map((part) => run({ jitter, part }));
    // of 16 ranks one is all but always slow
    expect(all?.seconds).toBeCloseTo(1.5, 1);
    expect(all?.waiting).toBeCloseTo(0.5, 1);
    expect(parts?.waiting).toBeLessThan(all?.waiting as number);
    expect(none?.waiting).toBe(0);
    expect(none?.seconds).toBeLessThan(parts?.seconds as number);
  });

  it("evens out where there are many pieces of work between two exchanges", () => {
    const waiting = (compute: number) => run({ jitter: [5e-3, 15e-3], compute }).waiting / compute;
    expect(waiting(100)).toBeLessThan(waiting(1) / 3);
  });
});

it("docs/results/scaling.md has the model's bytes and messages", () => {
  const document = readFileSync(new URL("../../docs/results/scaling.md", import.meta.url), "utf8");
  const rows = [...document.matchAll(/^\| (\d+) +\| +([\d.]+) \| +([\d.]+) \| +(\d+) \| +(\d+) \|/gm)];
  expect(rows.length).toBeGreaterThan(6);
  for (const [, ranks, ...cells] of rows) {
    const [ring, tree] = (["ring", "tree"] as const).map((algorithm) =>
      stepCost(exchangesOf(MPI), algorithm, Number(ranks)),
    );
    const expected = [ring, tree].map((cost) => (cost?.bytes as number) * 1e-6);
    expect(cells.slice(0, 2).map(Number)).toBeAllclose(expected, { rtol: 6e-3 });
    expect(cells.slice(2).map(Number)).toEqual([ring?.messages, tree?.messages]);
  }
});
