// The benchmark's own parts: its plain-JavaScript peer and its expectations are right, its copy copies, its report says
// what was measured.

import { describe, expect, it } from "vitest";
import { EPSILON, errorOf, expectedOf, makeProblem } from "../bench/data.mjs";
import { isolated } from "../bench/isolate.mjs";
import { measure } from "../bench/measure.mjs";
import { copyKernel } from "../bench/peers/copy.mjs";
import { javascript } from "../bench/peers/javascript.mjs";
import { renderReadme, renderReport, renderShape, renderTargets, replaceMarked, TARGETS } from "../bench/report.mjs";
import { backward, dimsOf, forward, invStdOf, statistics } from "./reference.ts";

interface Operation {
  call(): void;
  results(): Record<string, Float32Array | Float64Array>;
}

describe.each([
  { shape: [5, 3, 4, 2], layout: "channels-first" },
  { shape: [5, 4, 2, 3], layout: "channels-last" },
  { shape: [7, 6], layout: "channels-first" },
] as const)("on $shape, $layout", ({ shape, layout }) => {
  const problem = makeProblem({ shape, layout }, 1);
  const { x, dy, gamma, beta, runningMean, runningVariance } = problem;
  const d = dimsOf(shape, layout);
  const { mean, variance } = statistics(x, d);
  const invStd = invStdOf(variance, EPSILON);
  const predicted = invStdOf(Float64Array.from(runningVariance), EPSILON);
  const { dx, dGamma, dBeta } = backward(x, dy, d, mean, invStd, gamma, true);
  const oracle: Record<string, Record<string, Float64Array>> = {
    inference: { y: forward(x, d, runningMean, predicted, gamma, beta).y },
    forward: { y: forward(x, d, mean, invStd, gamma, beta).y },
    backward: { dx, dGamma, dBeta },
  };

  it.each(Object.keys(oracle))(
    "the plain-JavaScript peer and the expectation agree with the oracle: %s",
    (operation) => {
      const truth = oracle[operation] as Record<string, Float64Array>;
      const expected = expectedOf(problem) as Record<string, Record<string, Float64Array>>;
      expect(errorOf(expected[operation], truth)).toBeLessThan(1e-12);
      const { operations } = javascript.prepare(problem) as unknown as { operations: Record<string, Operation> };
      operations.inference?.call();
      operations[operation]?.call();
      const results = operations[operation]?.results() ?? {};
      expect(errorOf(results, truth)).toBeLessThan(1e-6);
      const negative = Object.fromEntries(
        Object.entries(results).map(([name, values]) => [name, values.map((v) => -v)]),
      );
      expect(errorOf(negative, truth)).toBeGreaterThan(1);
      expect(errorOf({ ...results, ...{ y: x.fill.call(x.slice(), Number.NaN) } }, { y: x })).toBe(
        Number.POSITIVE_INFINITY,
      );
    },
  );
});

it("a peer in a thread of its own computes there what it computes here", () => {
  const problem = makeProblem({ shape: [3, 2, 5], layout: "channels-first" }, 1);
  const { operations, dispose } = isolated("there", "peers/javascript.mjs", "javascript").prepare(problem);
  const here = javascript.prepare(problem);
  for (const [name, { call, results }] of Object.entries(here.operations)) {
    call();
    expect(operations[name].time(2)).toBeGreaterThan(0);
    expect(operations[name].results()).toEqual(results());
  }
  dispose();
});

it("the copy copies every length from 0 to 130 elements and nothing beside them", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const copy = copyKernel(memory) as (from: number, to: number, bytes: number) => void;
  const view = new Float32Array(memory.buffer);
  for (let length = 0; length <= 130; length++) {
    view.fill(-1);
    for (let i = 0; i < length; i++) view[256 + i] = i + 1;
    copy(1024, 4096, 4 * length);
    expect(view[1023]).toBe(-1);
    expect(view.subarray(1024, 1024 + length)).toBeAllclose(Array.from({ length }, (_, i) => i + 1));
    expect(view[1024 + length]).toBe(-1);
  }
});

it("every round runs every task, each as often as makes a sample", () => {
  const calls = [0, 0];
  const tasks = calls.map((_, i) => ({
    call: () => {
      calls[i] = (calls[i] as number) + 1;
      for (const start = performance.now(); performance.now() - start < 1.5; );
    },
  }));
  const { rounds, times } = measure(tasks, { budgetMs: 30, next: () => 0.5 });
  expect(rounds).toBeGreaterThanOrEqual(5);
  for (const [i, { ms, repeats }] of times.entries()) {
    expect(ms).toBeGreaterThanOrEqual(1.5);
    expect(calls[i]).toBeGreaterThanOrEqual(rounds * repeats);
  }
});

describe("the report", () => {
  const row = (peer: string, operation: string, ms: number, wrong = false) => ({
    peer,
    operation,
    ms,
    spread: 0.0567,
    gbps: 12.34,
    copies: ms / 1.11,
    speedup: operation === "copy" ? undefined : 50 / ms,
    error: 1.6e-7,
    wrong,
  });
  const peers = ["batchnorm-wasm, tensors", "batchnorm-wasm, arrays", "plain JavaScript"];
  const rows = [
    row("copy", "copy", 1.11),
    ...peers.flatMap((peer, p) =>
      ["inference", "forward", "backward"].map((operation, o) =>
        row(peer, operation, 1.23 * (p + 1) * (o + 1), p === 2),
      ),
    ),
  ];
  const shapes = [...TARGETS.shapes, { shape: [8, 32, 16, 16], layout: "channels-first" }].map((s) => ({
    ...s,
    bytes: 25_690_112,
    rounds: 7,
    rows,
  }));
  const environment = { date: "2026-01-02", processor: "a processor", engine: "an engine", commit: "abc1234" };
  const results = { environment, shapes };

  it("has every measured number, and says where a result is wrong", () => {
    const table = renderShape(shapes[0]);
    for (const text of ["1.11", "1.23", "2.46", "0.0567", "12.3", "40.7×", "**wrong**: 2e-7", "25.7 MB", "7 rounds"])
      expect(table).toContain(text);
    const page = renderReport(results);
    for (const text of Object.values(environment)) expect(page).toContain(text);
    expect(page).toContain(table);
  });

  it("says which targets were reached and which were not", () => {
    const lines = renderTargets(results).split("\n");
    expect(lines.filter((line) => line.includes("not reached"))).toHaveLength(4);
    expect(lines.filter((line) => line.includes("| reached"))).toHaveLength(2);
  });

  it("replaces what stands between the README's markers, and nothing else", () => {
    const text = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter";
    const table = renderReadme(results);
    expect(table).toContain("1.23 (40.7×)");
    expect(replaceMarked(text, table)).toBe(`before\n<!-- bench:begin -->\n${table}\n<!-- bench:end -->\nafter`);
    expect(replaceMarked("no markers", table)).toBe("no markers");
  });
});
