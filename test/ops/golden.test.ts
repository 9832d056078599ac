// Every golden case through the public API, in every build, kind of input and layout. y and dx are within 4 u, all
// other results within 1 u. The same cases in float64 have limits of their own. `npm run docs:numerics` writes the
// maxima into docs/concepts/numerics-measurements.md.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectPart } from "../support/document.ts";
import { CASES, type Distance, measure, measureStep, runStep, variantsOf } from "../support/golden.ts";
import { KINDS, useBuild, WORLDS } from "../support/worlds.ts";

const gateOf = (output: string) => (output === "y" || output === "dx" ? 4 : 1);

const ROWS: readonly [string, (id: string, tags: readonly string[]) => boolean][] = [
  ["sweep over H·W and C, training", (id) => id.startsWith("sweep/train")],
  ["sweep over H·W and C, eval", (id) => id.startsWith("sweep/eval")],
  ["ranks 2 to 5, both layouts", (id) => id.startsWith("rank/")],
  ["[N, C]", (id) => id.startsWith("nc/")],
  ["realistic sizes", (id) => id.startsWith("mid/")],
  ["epsilon 0 to 1", (id) => id.startsWith("eps/")],
  ["momentum 0 to 1, no running statistics", (id) => id.startsWith("momentum/") || id.startsWith("notrack/")],
  ["mean/std = 1e2", (id) => id === "ill/mean100_std1"],
  ["mean/std = 1e4", (id) => id.startsWith("ill/mean10000_") || id.startsWith("ill/mean1e4")],
  ["mean/std = 1e6", (id) => id === "ill/mean1e+06_std1"],
  ["std 1e-3 and 1e-6", (_, tags) => tags.includes("small-std")],
  ["values around 1e30", (_, tags) => tags.includes("huge")],
  ["subnormal values", (_, tags) => tags.includes("denormal")],
  ["constant channels", (_, tags) => tags.includes("constant")],
  ["constant dy; XLA's TrainingLargeInputs", (id) => id === "ill/dy_const" || id.startsWith("xla/")],
  ["sequences of batches", (id) => id.startsWith("sequence/")],
  ["ONNX's operator, rank 1 to 5", (id) => id.startsWith("onnx/")],
  ["population statistics", (id) => id.startsWith("population/")],
  ["parts of one batch, in two phases", (id) => id.startsWith("sync/")],
  ["up to 17,000,003 values per channel", (id) => id.startsWith("procedural/")],
];

type Measured = Map<string, Distance[]>;

const measured: Measured = new Map();
const measured64: Measured = new Map();
const keep = (where: Measured, id: string, distances: readonly Distance[]) =>
  where.set(id, [...(where.get(id) ?? []), ...distances]);

describe.each(WORLDS)("golden cases, $build build, $kind input", ({ build, kind }) => {
  beforeAll(() => useBuild(build));

  describe.each(CASES.map((c) => ({ id: c.id, c })))("$id", ({ c }) => {
    const special = c.tags.includes("special");
    it.each(variantsOf(c))("$name is within the gates", (v) => {
      const distances = measure(c, v, kind);
      expect(distances.length).toBeGreaterThan(0);
      for (const d of distances) {
        expect(d.u, `${d.output} in u`).toBeLessThanOrEqual(gateOf(d.output));
        expect(d.zero, `${d.output} where it must be exact`).toBe(0);
        // a poisoned channel must be non-finite, but whether NaN or infinite is not said; see the test below
        if (!special || !c.params.training) expect(d.classes, `${d.output}: non-finite elements`).toBe(0);
      }
      if (build === "simd") keep(measured, c.id, distances);
    });
  });
});

// y = (x − mean)·scale + shift has no second half of the mean here: a known limit (docs/concepts/numerics.md)
const gate64Of = (output: string, ratio: number) => (output === "y" || output === "dx" ? 8 + ratio : 4);

describe.each(WORLDS.filter(({ build }) => build !== "relaxed"))(
  "in float64, $build build, $kind input",
  ({ build, kind }) => {
    beforeAll(() => useBuild(build));
    const steps = CASES.filter((c) => c.kind === "train" || c.kind === "eval");

    it.each(steps.map((c) => ({ id: c.id, c })))("$id is within the gates", ({ c }) => {
      for (const v of variantsOf(c)) {
        const { list, ratio } = measureStep(c, v, kind, "float64");
        expect(list.length).toBeGreaterThan(0);
        for (const d of list) {
          expect(d.u, `${v.name}: ${d.output} in u`).toBeLessThanOrEqual(gate64Of(d.output, ratio));
          expect(d.zero, `${v.name}: ${d.output} where it must be exact`).toBe(0);
          if (!c.tags.includes("special") || !c.params.training) expect(d.classes, d.output).toBe(0);
        }
        if (build === "simd") keep(measured64, c.id, list);
      }
    });
  },
);

const POISONED = CASES.filter((c) => c.tags.includes("special") && c.params.training);

describe.each(POISONED.map((c) => ({ id: c.id, c })))("$id", ({ c }) => {
  beforeAll(() => useBuild("simd"));

  it.each(variantsOf(c).flatMap((v) => KINDS.map((kind) => ({ ...v, kind }))))(
    "$name, $kind: the poison stays in its channel, bit for bit",
    ({ kind, ...v }) => {
      const poisoned = runStep(c, v, kind);
      const { channels, inner } = poisoned.d;
      const channel = (i: number) => Math.floor(i / inner) % channels;
      const of = (list: Float32Array | null) => [...(list ?? [])].findIndex((value) => !Number.isFinite(value));
      const fromX = of(poisoned.data) >= 0;
      const bad = channel(fromX ? of(poisoned.data) : of(poisoned.dyData));
      expect(bad).toBeGreaterThanOrEqual(0);

      // the case is stored in one layout; its channel's run there, and its size
      const stored =
        c.params.layout === "NCHW" ? c.params.shape.slice(2).reduce((a: number, b: number) => a * b, 1) : 1;
      const size = c.params.shape.reduce((a: number, b: number) => a * b, 1);
      const clean = Float32Array.from({ length: size }, (_, i) => i % 7);
      const source = runStep(c, variantsOf(c)[0] as typeof v, "plain").data;
      for (let i = 0; i < size; i++) if (Math.floor(i / stored) % channels !== bad) clean[i] = source[i] as number;
      const healthy = runStep(c, v, kind, clean);

      for (const output of ["y", "dx"] as const) {
        const a = poisoned[output] ?? new Float32Array();
        const b = healthy[output] ?? new Float32Array();
        expect(a.length).toBe(size);
        for (let i = 0; i < size; i++) if (channel(i) !== bad) expect(Object.is(a[i], b[i])).toBe(true);
      }
      const inChannel = (list: ArrayLike<number> | undefined) =>
        Array.from(list ?? []).filter((_, i) => channel(i) === bad);
      if (fromX) expect(inChannel(poisoned.y).every((value) => !Number.isFinite(value))).toBe(true);
      expect(inChannel(poisoned.dx).every((value) => !Number.isFinite(value))).toBe(true);
      for (const output of ["dGamma", "dBeta", "mean", "variance", "runningMean", "runningVariance"] as const) {
        const a = [...(poisoned[output] ?? [])];
        const b = [...(healthy[output] ?? [])];
        expect(a.length).toBe(channels);
        a.forEach((value, i) => {
          if (i !== bad) expect(Object.is(value, b[i])).toBe(true);
        });
      }
    },
  );
});

describe("docs/concepts/numerics-measurements.md", () => {
  const file = new URL("../../docs/concepts/numerics-measurements.md", import.meta.url);
  const show = (values: (number | undefined)[]) => {
    const known = values.filter((v) => v !== undefined && !Number.isNaN(v)) as number[];
    return known.length ? Number(Math.max(...known).toPrecision(2)).toString() : "–";
  };

  /** Rows of maxima: of each group of outputs what `columns` takes. */
  function tableOf(measurements: Measured, columns: readonly ((d: Distance) => number | undefined)[]): string[] {
    const special = new Set(CASES.filter((c) => c.tags.includes("special")).map((c) => c.id));
    const groups = [(o: string) => o === "y", (o: string) => o === "dx", (o: string) => o !== "y" && o !== "dx"];
    return ROWS.flatMap(([title, belongs]) => {
      const ids = CASES.filter((c) => belongs(c.id, c.tags) && !special.has(c.id)).map((c) => c.id);
      const all = ids.flatMap((id) => measurements.get(id) ?? []);
      if (measurements === measured) expect(all.length, title).toBeGreaterThan(0);
      if (all.length === 0) return [];
      const cells = groups.flatMap((belong) => columns.map((of) => show(all.filter((d) => belong(d.output)).map(of))));
      return [`| ${title} | ${ids.length} | ${cells.join(" | ")} |`];
    });
  }

  const u = (d: Distance) => d.u;

  it.each([
    {
      name: "golden",
      head: [
        "| golden cases | cases | y | PyTorch | dx | PyTorch | others | PyTorch |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
      ],
      rows: () => tableOf(measured, [u, (d) => d.torch]),
    },
    {
      name: "golden64",
      head: ["| golden cases in float64 | cases | y | dx | others |", "|---|---:|---:|---:|---:|"],
      rows: () => tableOf(measured64, [u]),
    },
  ])("holds the maxima that were measured here: $name", ({ name, head, rows }) => {
    expectPart(file, name, [...head, ...rows()].join("\n"));
  });

  afterAll(() => {
    measured.clear();
    measured64.clear();
  });
});
