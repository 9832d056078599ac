// The parts of the benchmark: correct data, a correct plain-JavaScript peer and copy, the samples of the clock, the
// runner's detection of wrong and failing peers, networks with the papers' shapes, and reports with the measured
// numbers.

import { parseHTML } from "linkedom";
import { describe, expect, it } from "vitest";
import { compareCommits, renderCommits } from "../../bench/compare.mjs";
import { compileCopy } from "../../bench/copy-module.mjs";
import { EPSILON, errorOf, expectedOf, makeProblem, transposed } from "../../bench/data.mjs";
import { answersTo, DTYPES, FUSIONS, MODES, makeFeatureProblem, OPERATIONS } from "../../bench/features.mjs";
import { pageOf } from "../../bench/html.mjs";
import { isolate } from "../../bench/isolate.mjs";
import { measure, QUICK, timeCalls } from "../../bench/measure.mjs";
import { distinct, mobileNetV2, networksOf, resnet50 } from "../../bench/networks.mjs";
import { complaints } from "../../bench/output.mjs";
import { copyKernel, passesOver } from "../../bench/peers/copy.mjs";
import { features as featuresPeer } from "../../bench/peers/features.mjs";
import { PEERS } from "../../bench/peers/index.mjs";
import { javascript } from "../../bench/peers/javascript.mjs";
import { nativePeers } from "../../bench/peers/native.mjs";
import { pytorchPeers } from "../../bench/peers/pytorch.mjs";
import { remote } from "../../bench/peers/remote.mjs";
import { speedPicture } from "../../bench/picture.mjs";
import {
  renderComparison,
  renderFusion,
  renderReadme,
  renderReport,
  renderShape,
  renderSummary,
  renderTargets,
  replaceMarked,
} from "../../bench/report.mjs";
import { OURS, runShape, totalsOf } from "../../bench/run.mjs";
import { SHAPES, sizeOf, titleOf, twinOf } from "../../bench/shapes.mjs";
import { fusionVerdict, TARGETS, verdicts } from "../../bench/targets.mjs";
import { backward, dimsOf, forward, invStdOf, statistics } from "../support/reference.ts";

type Results = Record<string, Float32Array | Float64Array>;

interface Operation {
  call(): void;
  results(): Results;
}

/** A row of run.mjs. */
interface Row {
  peer: string;
  layout: string;
  operation: string;
  ms?: number;
  error?: number;
  wrong?: boolean;
  failed?: string;
  samples?: number;
  copies?: number;
  times?: number;
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
  const { y } = forward(x, d, mean, invStd, gamma, beta);
  const oracle: Record<string, Record<string, Float64Array>> = {
    inference: { y: forward(x, d, runningMean, predicted, gamma, beta).y },
    forward: { y },
    backward: { dx, dGamma, dBeta },
    step: { y, dx, dGamma, dBeta },
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
      expect(errorOf({ y: x.slice().fill(Number.NaN) }, { y: x })).toBe(Number.POSITIVE_INFINITY);
    },
  );

  if (shape.length === 2) return;
  it("a problem in the other layout has the same answers, transposed", () => {
    const turned = transposed(problem, twinOf({ shape, layout }));
    expect(turned.shape).not.toEqual(shape);
    const [here, there] = [problem, turned].map((p) => expectedOf(p).backward as Record<string, Float64Array>) as [
      Record<string, Float64Array>,
      Record<string, Float64Array>,
    ];
    expect(errorOf({ dGamma: there.dGamma }, { dGamma: here.dGamma })).toBeLessThan(1e-12);
    const back = transposed({ ...turned, x: Float32Array.from(there.dx ?? []) }, { shape, layout });
    expect(errorOf({ dx: back.x }, { dx: here.dx })).toBeLessThan(1e-6);
    expect(back.dy).toEqual(problem.dy);
  });
});

it("numbers drawn beyond the period repeat it", () => {
  const period = 1_000_003;
  const { dy } = makeProblem({ shape: [1, 1, 2 * period + 5], layout: "channels-first" }, 1);
  expect(dy.every((value, i) => value === dy[i % period])).toBe(true);
  expect(new Set(dy.subarray(0, 1000)).size).toBeGreaterThan(990);
});

it("a peer in a thread of its own computes there what it computes here", async () => {
  const problem = makeProblem({ shape: [3, 2, 5], layout: "channels-first" }, 1);
  const there = await remote({ id: "javascript", ...PEERS.javascript, load: undefined }, isolate).prepare(problem, {});
  const here = javascript.prepare(problem);
  expect(Object.keys(there.operations)).toEqual(Object.keys(here.operations));
  for (const [name, { call, results }] of Object.entries(here.operations)) {
    call();
    expect(await there.operations[name].time(2)).toBeGreaterThan(0);
    expect(await there.operations[name].results()).toEqual(results());
  }
  await there.dispose();
});

it("a peer that cannot be prepared in its thread says why", async () => {
  const problem = makeProblem({ shape: [3, 2], layout: "channels-first" }, 1);
  const peer = remote({ id: "tensors", name: "ours" }, isolate);
  await expect(peer.prepare(problem, { init: { nonsense: 1 } })).rejects.toThrow("nonsense");
});

it("a Python that does not exist or has no PyTorch is no peer", async () => {
  expect(await pytorchPeers(["/nowhere/python3", process.execPath])).toEqual([]);
});

it("the copy copies every length from 0 to 130 elements and nothing beside them", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const copy = copyKernel(compileCopy(), memory) as (from: number, to: number, bytes: number) => void;
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

it("the separate passes compute what they say, for every length from 0 to 70 elements, and nothing beside it", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const passes = passesOver(compileCopy(), memory) as unknown as {
    relu(y: number, bytes: number): void;
    addRelu(y: number, b: number, bytes: number): void;
    gate(y: number, dy: number, dz: number, bytes: number): void;
  };
  const view = (at: number) => new Float32Array(memory.buffer, at, 80);
  const [y, b, dz] = [view(1024), view(2048), view(4096)];
  for (let length = 0; length <= 70; length++) {
    const fill = () => {
      for (let i = 0; i < 80; i++) {
        y[i] = (i % 5) - 2;
        b[i] = (i % 3) - 1.5;
        dz[i] = 9;
      }
    };
    const expects = (got: Float32Array, want: (i: number) => number, rest: (i: number) => number) =>
      expect(Array.from(got)).toEqual(Array.from({ length: 80 }, (_, i) => (i < length ? want(i) : rest(i))));
    const [value, other] = [(i: number) => (i % 5) - 2, (i: number) => (i % 3) - 1.5];
    fill();
    passes.relu(1024, 4 * length);
    expects(y, (i) => Math.max(value(i), 0), value);
    fill();
    passes.addRelu(1024, 2048, 4 * length);
    expects(y, (i) => Math.max(value(i) + other(i), 0), value);
    fill();
    passes.gate(1024, 2048, 4096, 4 * length);
    expects(
      dz,
      (i) => (value(i) > 0 ? other(i) : 0),
      () => 9,
    );
  }
});

describe("features", () => {
  const settings = { features: [...FUSIONS, ...DTYPES, ...MODES], copyModule: compileCopy() };

  it.each([
    { shape: [16, 6, 40], layout: "channels-first" },
    { shape: [16, 40, 6], layout: "channels-last" },
  ])("give their answers on $shape, $layout, each its own", async (description) => {
    const problem = makeFeatureProblem(description, 1);
    const answer = answersTo(problem);
    const { operations } = (await featuresPeer.prepare(problem, settings)) as unknown as {
      operations: Record<string, Operation>;
    };
    const plain = expectedOf(problem) as unknown as Record<string, Results>;
    for (const operation of OPERATIONS) {
      expect(errorOf(answer({ feature: "plain" }, operation), plain[operation])).toBeLessThan(1e-12);
      for (const feature of settings.features) {
        const { call, results } = operations[`${operation}, ${feature.feature}`] as Operation;
        call();
        call();
        const { tolerance = 1e-6 } = feature as { tolerance?: number };
        expect(errorOf(results(), answer(feature, operation))).toBeLessThan(tolerance);
      }
    }
    const others = [...FUSIONS, ...MODES].filter(({ feature }) => !/plain|separate|^residual$/.test(feature));
    for (const feature of others)
      expect(errorOf(answer(feature, "backward"), answer({ feature: "plain" }, "backward"))).toBeGreaterThan(1e-3);
  });

  it("keep 70 % of the positions, and no gradient where rounding decides", () => {
    const problem = makeFeatureProblem({ shape: [32, 8, 1000], layout: "channels-first" }, 1);
    expect((problem.lengths as number[]).reduce((sum, length) => sum + length, 0) / 32_000).toBeCloseTo(0.7, 3);
    const { y } = answersTo(problem)({ feature: "plain" }, "forward");
    expect(Array.from(y as Float64Array).some((z, i) => Math.abs(z) < 1e-5 && problem.dy[i] !== 0)).toBe(false);
    expect(problem.dy.filter((v) => v === 0).length).toBeLessThan(500);
  });
});

describe("measuring", () => {
  const effort = { warmUpMs: 5, shareMs: 30, patienceMs: 60 };
  const task = (ms: number) => {
    const calls: number[] = [];
    const time = (repeats: number) => calls.push(repeats) && ms;
    return { calls, time, check: () => ({ error: 0, wrong: false }) };
  };

  it("gives a slow task fewer samples, and short calls repeats", async () => {
    const [fast, slow, slowest] = [task(0.2), task(15), task(1000)];
    const rows = await measure([fast, slow, slowest], { effort, next: () => 0.5 });
    expect(rows).toMatchObject([
      { ms: 0.2, spread: 0, samples: 30, repeats: 5, error: 0, wrong: false },
      { ms: 15, samples: 4, repeats: 1 },
      { ms: 1000, samples: 1, repeats: 1 },
    ]);
    expect(fast.calls.filter((repeats) => repeats === 5)).toHaveLength(30);
  });

  it("waits for asynchronous calls", async () => {
    const call = () => new Promise((resolve) => setTimeout(resolve, 5));
    expect(await timeCalls({ call, asynchronous: true }, 2)).toBeGreaterThan(4);
    expect(await timeCalls({ call, asynchronous: false }, 2)).toBeLessThan(4);
  });

  it("goes on without a task that throws", async () => {
    const time = () => {
      throw new Error("out of memory\nat some place");
    };
    const rows = await measure([{ ...task(1), time }, task(2)], { effort, next: () => 0.5 });
    expect(rows[0]).toEqual({ failed: "out of memory" });
    expect(rows[1]).toMatchObject({ ms: 2 });
  });
});

describe("running peers on a shape", () => {
  const description = { shape: [4, 3, 2, 2], layout: "channels-first" };
  const peer = (name: string, layouts: string[], flaw = 1) => ({
    name,
    layouts,
    prepare(problem: ReturnType<typeof makeProblem>) {
      const { operations } = javascript.prepare(problem) as unknown as { operations: Record<string, Operation> };
      const { call, results } = operations.forward as Operation;
      const flawed = () => ({ y: (results().y as Float32Array).map((v) => v * flaw) });
      const time = (repeats: number) => timeCalls({ call, asynchronous: false }, repeats);
      return { operations: { forward: { time, results: flawed } }, dispose() {} };
    },
  });
  const both = ["channels-first", "channels-last"];
  const broken = {
    ...peer("broken", both),
    prepare() {
      throw new Error("no such backend");
    },
  };
  const run = async () => {
    const peers = [peer(OURS, both), peer("wrong", both, 1.01), peer("last", ["channels-last"]), broken];
    const bothLayouts = ({ name }: { name: string }) => name === "wrong";
    return runShape(description, { peers, effort: QUICK, bothLayouts, onProgress: () => {} });
  };

  it("marks wrong answers, keeps failures, and names the layout of each", async () => {
    const entry = (await run()) as { bytes: number; rows: Row[] };
    expect(entry.bytes).toBe(192);
    expect(entry.rows.map(({ peer, layout, wrong, failed }) => [peer, layout, failed ?? wrong])).toEqual([
      [OURS, "channels-first", false],
      ["wrong", "channels-first", true],
      ["wrong", "channels-last", true],
      ["last", "channels-last", false],
      ["broken", "channels-first", "no such backend"],
    ]);
    expect(entry.rows[0]?.times).toBe(1);
  });

  it("has complaints about ours alone", async () => {
    const ours = { peer: OURS, layout: "channels-first", operation: "forward", wrong: true };
    const results = { shapes: [await run()], networks: [], sweep: [], awkward: [] };
    expect(complaints(results)).toEqual([]);
    const worse = { ...results, sweep: [{ ...description, rows: [ours] }] };
    expect(complaints(worse)).toEqual([`${OURS}, forward, [4,3,2,2], channels-first: wrong`]);
  });
});

describe("the networks", () => {
  const times = (norms: { shape: number[]; times: number }[]) =>
    Object.fromEntries(norms.map((norm) => [norm.shape.join("×"), norm.times]));

  it("ResNet-50 has 53 batch norms in 12 shapes", () => {
    expect(resnet50()).toHaveLength(53);
    expect(times(distinct(resnet50(), "channels-first", 32))).toEqual({
      "32×64×112×112": 1,
      "32×64×56×56": 6,
      "32×256×56×56": 4,
      "32×128×56×56": 1,
      "32×128×28×28": 7,
      "32×512×28×28": 5,
      "32×256×28×28": 1,
      "32×256×14×14": 11,
      "32×1024×14×14": 7,
      "32×512×14×14": 1,
      "32×512×7×7": 5,
      "32×2048×7×7": 4,
    });
    const parameters = resnet50().reduce((sum, { channels }) => sum + 2 * channels, 0);
    expect(parameters).toBe(53_120); // torchvision's resnet50: 25,557,032 less those of convolutions and fc
  });

  it("MobileNetV2 has 52 batch norms", () => {
    expect(mobileNetV2()).toHaveLength(52);
    const found = times(distinct(mobileNetV2(), "channels-last", 1));
    expect(found).toMatchObject({ "1×112×112×32": 2, "1×112×112×96": 1, "1×14×14×384": 8, "1×7×7×1280": 1 });
    const parameters = mobileNetV2().reduce((sum, { channels }) => sum + 2 * channels, 0);
    expect(parameters).toBe(34_112); // torchvision's mobilenet_v2 likewise
  });

  it("come with every norm once, whatever the batch", () => {
    for (const { norms } of networksOf(4)) expect(norms.every(({ shape }) => shape[0] === 4)).toBe(true);
    const counts = networksOf(32).map(({ norms }) => norms.reduce((sum, norm) => sum + norm.times, 0));
    expect(counts).toEqual([53, 52]);
  });

  it("add up by peer and layout, each norm as often as it occurs", () => {
    const row = (peer: string, ms: number) => ({
      peer,
      layout: "channels-first",
      operation: "step",
      ms,
      error: ms / 1e9,
    });
    const entries = [
      { shape: [1, 2], times: 3, rows: [row(OURS, 10), row("other", 100)] },
      { shape: [1, 4], times: 1, rows: [row(OURS, 1), { peer: "other", layout: "channels-first", failed: "memory" }] },
    ];
    const [ours, other] = totalsOf(entries) as unknown as [Row, Row];
    expect(ours).toMatchObject({ ms: 31, times: 1, error: 1e-8, wrong: false });
    expect(other.failed).toBe("at [1, 4]: memory");
  });
});

describe("the report", () => {
  const row = (peer: string, operation: string, ms: number, wrong = false) => ({
    ...{ peer, operation, ms, wrong, layout: "channels-first" },
    ...{ spread: 0.0567, samples: 7, repeats: 1, gbps: 12.34, error: 1.6e-7 },
    copies: ms / 1.11,
    times: ms / 1.23,
  });
  const peers = [OURS, "plain JavaScript", "PyTorch 1.13.0", "PyTorch 2.14.1"];
  const rows = [
    row("copy", "copy", 1.11),
    ...peers.flatMap((peer, p) =>
      ["inference", "forward", "backward", "step"].map((operation, o) =>
        row(peer, operation, 1.23 * (p + 1) * (o + 1), p === 1),
      ),
    ),
  ];
  const shapes = SHAPES.map((s) => ({
    ...s,
    bytes: 25_690_112,
    rows: [...rows.map((r) => ({ ...r, layout: s.layout })), { peer: "jax-js", layout: s.layout, failed: "no memory" }],
    leftOut: [{ peer: "TF.js cpu", reason: "too slow" }],
  }));
  const environment = {
    ...{ date: "2026-01-02", processor: "a processor", engine: "an engine", peers: "a peer 1.2.3", commit: "abc1234" },
  };
  const missing = [{ peer: "TF.js wasm", reason: "not installed" }];
  const threads = [1, 2].map((n) => ({ ...shapes[0], operation: "forward", threads: n, ms: 8 / n }));
  const totals = [row("copy", "copy", 66.6), row(OURS, "step", 333)];
  const networks = [{ title: "A-Net", layout: "channels-first", batch: 4, norms: [{ times: 53 }], totals }];
  const builds = { reason: "Not offered by this version" };
  const results = { environment, missing, shapes, networks, sweep: shapes, awkward: shapes, threads, builds };

  it("has every measured number, and says what is wrong, failed, or was left out", () => {
    const table = renderShape(shapes[0]);
    const texts = ["1.11", "1.23", "2.46", "0.0567", "12.3", "**wrong**: 2e-7", "25.7 MB"];
    for (const text of [...texts, "jax-js: failed: no memory", "TF.js cpu: too slow"]) expect(table).toContain(text);
    const page = renderReport(results);
    for (const text of Object.values(environment)) expect(page).toContain(text);
    for (const text of [table, "not installed", "A-Net, all 53 batch norms", "333", "2 threads", "Not offered"])
      expect(page).toContain(text);
  });

  it("has a target for every listed shape, and says which were reached", () => {
    expect(TARGETS.map(titleOf)).toEqual(SHAPES.map(titleOf));
    const found = verdicts({ shapes });
    expect(found[0]).toMatchObject({
      operation: "inference",
      limits: [
        { kind: "copies", limit: 0.95, reached: false },
        // of both versions, the faster
        { kind: "PyTorch", limit: 1.1, measured: 3, reached: true, against: "PyTorch 1.13.0" },
      ],
    });
    expect(found[2]?.limits[1]).toMatchObject({ limit: 1.4, measured: 3, against: "PyTorch 1.13.0" });
    const smallest = found.find((verdict) => "shape" in verdict && verdict.shape.join() === "4,4");
    expect(smallest?.limits[0]).toMatchObject({ kind: "µs", measured: 2460, reached: false });
    const lines = renderTargets({ shapes }).split("\n");
    const all = found.flatMap(({ limits }) => limits);
    const missed = all.filter(({ measured, reached }) => measured !== undefined && !reached);
    expect(lines.filter((line) => line.includes("| reached"))).toHaveLength(all.filter((l) => l.reached).length);
    expect(lines.filter((line) => line.includes("not reached"))).toHaveLength(missed.length);
  });

  it("compares what replaces TF.js's with TF.js's own", () => {
    const [theirs, ours] = ["TF.js wasm", "batchnorm-wasm in TF.js wasm"];
    const rows = [
      row(theirs, "inference", 18),
      row(ours, "inference", 2),
      row(theirs, "step", 120),
      row(ours, "step", 3),
    ];
    const entry = { shape: [32, 56, 56, 64], layout: "channels-last", rows };
    const found = verdicts({ shapes: [entry] }).flatMap(({ limits }) => limits);
    const against = `${theirs}, by ${ours}`;
    expect(found).toContainEqual({ kind: theirs, limit: 8, measured: 9, reached: true, against });
    expect(found).toContainEqual({ kind: theirs, limit: 50, measured: 40, reached: false, against });
    expect(renderTargets({ shapes: [entry] })).toMatch(/≥ 50× TF.js wasm, by .*not reached/);
    const missing = verdicts({ shapes: [{ ...entry, rows: rows.slice(0, 3) }] }).flatMap(({ limits }) => limits);
    expect(missing.find(({ limit, kind }) => kind === theirs && limit === 50)?.measured).toBeUndefined();
  });

  it("begins with a summary: ours against the fastest of each alternative, and what is slower in bold", () => {
    const [first] = shapes as [(typeof shapes)[0]];
    const lines = renderSummary({ ...results, shapes: [first] }).split("\n");
    const [inference] = lines.filter((line) => line.includes("| inference"));
    // plain JavaScript's answer is wrong, TF.js did not run, and PyTorch 1.13 takes 3 times as long
    expect(inference).toMatch(/\[32, 64, 56, 56\].* 1\.23 \|.* 1\.11 \| +– \| +– \| +3\.00× \|/);
    const faster = { ...row("PyTorch 2.14.1", "inference", 0.615), layout: "channels-first" };
    const slow = renderSummary({ ...results, shapes: [{ ...first, rows: [...first.rows, faster] }] });
    expect(slow).toContain("**0.500×**");
    expect(slow).toMatch(
      /Against \*\*native PyTorch\*\*: .*Slower in 1 of \d+: inference on \[32, 64, 56, 56\].* \(0\.500×\)\./,
    );
    expect(slow).toMatch(/Of \d+ targets that were measured, \d+ are reached\./);
  });

  it("draws how many times as fast it is, each alternative with a symbol of its own", () => {
    const svg = speedPicture({ ...results, shapes });
    const { document } = parseHTML(svg);
    const texts = [...document.querySelectorAll("text")].map((text) => text.textContent);
    for (const text of ["[32, 64, 56, 56], channels first", "inference", "against native PyTorch"])
      expect(texts).toContain(text);
    const groups = [...document.querySelectorAll('[aria-label="dot"][fill]')];
    const shapeBy = new Map(groups.map((g) => [g.getAttribute("fill"), g.querySelector("path, circle")]));
    expect([...shapeBy.keys()].sort()).toEqual(["var(--color0)", "var(--color1)", "var(--color2)"]);
    const outlines = [...shapeBy.values()].map((shape) => shape?.getAttribute("d") ?? shape?.tagName);
    expect(new Set(outlines).size).toBe(3);
    expect(svg).toContain("prefers-color-scheme:dark");
  });

  it("has targets for networks, against PyTorch in each layout", () => {
    const step = (peer: string, layout: string, ms: number) => ({ ...row(peer, "step", ms), layout });
    const pytorch = [step("PyTorch 2.14.1", "channels-first", 350), step("PyTorch 2.14.1", "channels-last", 150)];
    const network = { title: "ResNet-50", totals: [step(OURS, "channels-first", 100), ...pytorch] };
    const limits = verdicts({ shapes: [], networks: [network] as never }).map(({ limits }) => limits[0]);
    expect(limits).toMatchObject([
      { limit: 3.5, measured: 3.5, reached: true },
      { limit: 1.6, measured: 1.5, reached: false },
    ]);
    expect(renderTargets({ shapes: [], networks: [network] })).toMatch(
      /ResNet-50, PyTorch channels last .*not reached/,
    );
  });

  it("does not judge what was not measured, and takes no wrong answer for a fast one", () => {
    const without = shapes.map((s) => ({ ...s, rows: s.rows.filter(({ peer }) => !peer.startsWith("PyTorch")) }));
    expect(renderTargets({ shapes: without })).toContain("not measured");
    const wrong = shapes.map((s) => ({ ...s, rows: s.rows.map((r) => ({ ...r, wrong: true })) }));
    expect(
      verdicts({ shapes: wrong })
        .flatMap(({ limits }) => limits)
        .some(({ reached }) => reached),
    ).toBe(false);
    expect(verdicts({ shapes: [] })).toEqual([]);
  });

  it("is a page of its own, with a chart for every shape and nothing from elsewhere", () => {
    const { document } = parseHTML("<!doctype html><html><body></body></html>");
    const page = pageOf(results, document);
    expect(page.match(/<svg/g)?.length).toBeGreaterThan(SHAPES.length + 2);
    for (const { shape } of SHAPES) expect(page).toContain(`[${shape.join(", ")}]`);
    expect(page.replaceAll("http://www.w3.org/", "")).not.toMatch(/https?:|src=|@import/);
    expect(page).not.toContain("NaN");
  });

  const featureRows = (features: { feature: string }[], times: (i: number) => number) =>
    OPERATIONS.flatMap((operation) =>
      features.map(({ feature }, i) => ({
        ...{ shape: [8, 32, 16, 16], layout: "channels-first", operation, feature },
        ...{ ms: 0.0123 * times(i), times: times(i), error: 0, wrong: false },
      })),
    );
  type FeatureRow = ReturnType<typeof featureRows>[number];
  const fusion = featureRows(FUSIONS, (i) => 1 + i / 25);
  const dtypes = featureRows(DTYPES, (i) => 1 + i);

  it("judges fusion: 1.1 of the plain operation at most, and what bandwidth alone would cost", () => {
    const at = (feature: string, operation: string) =>
      fusionVerdict(fusion.find((row) => row.feature === feature && row.operation === operation) as FeatureRow);
    expect(at("relu", "forward")).toEqual({ limit: 1.1, measured: 1.04, reached: true, bandwidth: 1 });
    expect(at("relu6", "forward")).toMatchObject({ measured: 1.12, reached: false });
    expect(at("residual", "inference")).toMatchObject({ reached: false, bandwidth: 1.5 });
    expect(at("relu, separate pass", "inference")).toMatchObject({ limit: undefined, bandwidth: 2 });
    expect(fusionVerdict({ ...(fusion[1] as FeatureRow), wrong: true })).toMatchObject({
      measured: undefined,
      reached: false,
    });
    const text = renderFusion(fusion);
    for (const part of ["**not reached**, 6 of 18", "1.04×", "**1.12×**", "bandwidth alone", "2.50×"])
      expect(text).toContain(part);
    expect(text).not.toContain("**1.28×**"); // nothing is asked of separate passes
  });

  it("has features with their times, failures and complaints", () => {
    expect(renderComparison(dtypes)).toContain("0.0369 (3.00×)");
    const page = renderReport({ ...results, fusion, dtypes, modes: dtypes });
    for (const title of ["## Fusion", "## Types of numbers", "## Modes"]) expect(page).toContain(title);
    expect(page).not.toContain("NaN");
    const { document } = parseHTML("<!doctype html><html><body></body></html>");
    expect(pageOf({ ...results, fusion, dtypes, modes: [] }, document)).toContain("<strong>1.12×</strong>");
    const [first, second, third] = dtypes as [FeatureRow, FeatureRow, FeatureRow];
    const broken = [first, { ...second, wrong: true }, { ...third, failed: "no memory", ms: undefined }];
    const text = renderComparison(broken);
    for (const part of ["**wrong** 0.0246", "failed: no memory"]) expect(text).toContain(part);
    const none = { shapes: [], networks: [], sweep: [], awkward: [] };
    expect(complaints({ ...none, dtypes: broken })).toEqual([
      "batchnorm-wasm, float64, inference, [8,32,16,16], channels-first: wrong",
      "batchnorm-wasm, float16, inference, [8,32,16,16], channels-first: no memory",
    ]);
  });

  it("says in the README where an alternative is faster, and counts what was measured", () => {
    const [first, , third] = shapes as typeof shapes;
    const measured = (faster: readonly Row[]) =>
      renderReadme({ ...results, shapes: [first, { ...third, rows: [...rows, ...faster] }] as never });
    // plain JavaScript's answer is wrong everywhere
    expect(measured([])).toContain("On tensors, an alternative is faster in none of 6 measurements.");
    const faster = [row("PyTorch 2.14.1", "backward", 1), row("PyTorch 1.13.0", "forward", 1)];
    expect(measured([...faster, row("TF.js wasm", "backward", 1)] as never)).toContain(
      "an alternative is faster in 2 of 6 measurements: TF.js wasm in backward on [32, 256, 14, 14]; " +
        "native PyTorch in training forward on [32, 256, 14, 14] and in backward on [32, 256, 14, 14].",
    );
  });

  it("replaces what stands between the README's markers, and nothing else", () => {
    const text = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter";
    const table = renderReadme(results);
    expect(table.split("\n")[2]).toMatch(/\[32, 64, 56, 56\] +\| inference +\| +1.23 +\| +wrong +\| +4.92 \|/);
    expect(replaceMarked(text, table)).toBe(`before\n<!-- bench:begin -->\n${table}\n<!-- bench:end -->\nafter`);
    expect(() => replaceMarked("no markers", table)).toThrow("<!-- bench:begin -->");
  });
});

it("commits are compared operation by operation, as the median of repetitions, and a failure is no result", async () => {
  const ms = [2, 4, 3, 1, 1, 1];
  let calls = 0;
  const isolated = (_: string, { name = OURS, settings = {} } = {}) => ({
    name,
    layouts: ["channels-first", "channels-last"],
    prepare(problem: ReturnType<typeof makeProblem>, given: object) {
      const peer = javascript.prepare(problem) as unknown as { operations: Record<string, Operation> };
      const copy = { call() {}, results: () => ({ y: problem.x }) };
      const operations = Object.fromEntries(
        Object.entries({ copy, ...peer.operations }).map(([operation, { call, results }]) => {
          const answer = () => {
            call();
            return results();
          };
          return [operation, { time: () => ms[calls++ % 6] as number, results: answer }];
        }),
      );
      expect(given).not.toHaveProperty("library", "none");
      expect(Object.keys(settings)).toEqual(name === OURS ? [] : ["library"]);
      return { operations, dispose() {} };
    },
  });
  const options = {
    isolated,
    library: "file:///dist/index.js",
    settings: {},
    effort: QUICK,
    only: "[4, 4]",
    onProgress() {},
  };
  const rows = await compareCommits(options as never);
  expect(rows.map(({ operation, ratios }) => [operation, ratios.length])).toEqual([
    ["inference", 3],
    ["forward", 3],
    ["backward", 3],
  ]);
  for (const { here, there, ratios } of rows)
    expect([here > 0, there > 0, ratios.every((ratio) => ratio > 0)]).toEqual([true, true, true]);
  expect(renderCommits(rows, "abc")).toMatch(/\| here \/ there \|/);
  const failing = {
    ...options,
    isolated: () => ({ ...isolated("tensors"), prepare: () => Promise.reject(new Error("no memory")) }),
  };
  await expect(compareCommits(failing as never)).rejects.toThrow("no memory");
  await expect(compareCommits({ ...options, only: "[5, 5]" } as never)).rejects.toThrow(
    /^--only: expected a piece of .*got \[5, 5\]$/,
  );
});

it("every listed shape is listed once", () => {
  expect(new Set(SHAPES.map(titleOf)).size).toBe(SHAPES.length);
  expect(Math.max(...SHAPES.map(sizeOf))).toBe(32 * 64 * 56 * 56);
});

it("native code computes batch norm on one and two threads, or says which compiler it needs", async () => {
  const { peers, reason, close } = nativePeers([1, 2]);
  if (reason) expect(reason).toMatch(/needs a C compiler/);
  for (const shape of [
    [4, 8, 9, 9],
    [300, 16],
  ]) {
    const problem = makeProblem({ shape, layout: "channels-first" }, 1);
    const expected = expectedOf(problem);
    for (const peer of peers) {
      const { operations, dispose } = await peer.prepare(problem, {});
      for (const operation of ["inference", "forward", "backward"] as const) {
        expect(await operations[operation].time(50)).toBeGreaterThan(0);
        expect(errorOf(await operations[operation].results(), expected[operation])).toBeLessThan(1e-5);
      }
      await dispose();
    }
  }
  close();
});
