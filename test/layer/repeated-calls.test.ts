// Programs that reuse their tensors. A layer does not check a call on the same tensors again, so every result is
// compared with that of a layer whose tensors are new in every call.

import { beforeAll, describe, expect, test } from "vitest";
import {
  type BackwardOptions,
  BatchNorm,
  type Gradients,
  type LayerForwardOptions,
  type Mode,
  type Options,
  Tensor,
  tensor,
  type Vector,
} from "../../src/index.ts";
import { drop, normal, random, sizeOf, useBuild } from "../support/worlds.ts";

const CHANNELS = 3;
const MODES: readonly Mode[] = ["train", "train", "batch", "eval", "frozen"];
const LAYERS: Record<string, Options> = {
  plain: {},
  "with an activation": { activation: "relu" },
  "without beta": { shift: false },
  "with ghost batches": { ghostBatchSize: 2 },
  "with limits of renorm that change": { renorm: { rMax: 1.1, dMax: 0.1 } },
};

/** What a call returned, in copies, or the message of its error. */
function outcome(call: () => Tensor | Gradients<Tensor>): unknown {
  const copy = (value: unknown) => (value instanceof Tensor ? value.data.slice() : (value as Vector).slice());
  try {
    const result = call();
    if (result instanceof Tensor) return copy(result);
    return Object.fromEntries(Object.entries(result).map(([name, value]) => [name, copy(value)]));
  } catch (error) {
    return (error as Error).message;
  }
}

describe.each(Object.entries(LAYERS))("a layer %s", (_, layerOptions) => {
  beforeAll(() => useBuild("simd"));

  test.each([1, 2, 3, 4, 5, 6])("computes the same from tensors that it knows and from new ones, %d", (seed) => {
    const next = random(seed);
    const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)] as T;
    const values = (length: number) => normal(Math.floor(next() * 1e6), length);
    const worlds = [
      [4, CHANNELS],
      [5, CHANNELS, 7],
    ].map((shape) => {
      const make = () => tensor(shape, values(sizeOf(shape)));
      return { x: [make(), make()], dy: [make(), make()], out: [make(), make()], residual: [undefined, make()] };
    });
    const known = new BatchNorm(CHANNELS, { momentum: 0.25, ...layerOptions });
    const twin = new BatchNorm(CHANNELS, { momentum: 0.25, ...layerOptions });
    const copy = <T extends Tensor | undefined>(t: T): T => (t && tensor(t.shape, t.data)) as T;
    /** Calls both layers, and expects the same results and running statistics. */
    const both = (call: (bn: BatchNorm, own: typeof copy) => Tensor | Gradients<Tensor>) => {
      const result = outcome(() => call(known, (t) => t));
      expect(outcome(() => call(twin, copy))).toEqual(result);
      expect([twin.runningMean, twin.runningVariance]).toEqual([known.runningMean, known.runningVariance]);
    };
    let world = worlds[0] as (typeof worlds)[0];
    const forwards: unknown[][] = [];
    const forward = (options: Omit<LayerForwardOptions, "out" | "residual">) => {
      const [x, out, residual] = [pick(world.x), pick([undefined, ...world.out]), pick(world.residual)];
      forwards.push([x, out, residual, options]);
      both((bn, own) => {
        const outs = { ...(out && { out: own(out) }), ...(residual && { residual: own(residual) }) };
        const y = bn.forward(own(x), { ...options, ...outs });
        if (out && bn === known) expect(y).toBe(out);
        return y;
      });
    };
    const actions: (() => void)[] = [
      () => {
        const calls = [0, 1, 2].map(() => ({ dy: pick(world.dy), dxOut: pick([undefined, ...world.out]) }));
        for (const { dy, dxOut } of calls)
          both((bn, own) => {
            const gradients = bn.backward(own(dy), dxOut ? { dxOut: own(dxOut) } : {});
            if (dxOut && bn === known) expect(gradients.dx).toBe(dxOut);
            return gradients;
          });
      },
      () => {
        const options = pick<BackwardOptions<Tensor>>([{ needs: { dx: false } }, { accumulate: true }, {}]);
        const dy = pick(world.dy);
        both((bn, own) => bn.backward(own(dy), options));
      },
      () => {
        const x = pick(world.x);
        x.data.set(values(x.length));
        forward({ mode: pick(MODES) }); // a backward would read the new x
      },
      () => {
        const gamma = values(CHANNELS);
        for (const bn of [known, twin]) bn.gamma?.set(gamma);
      },
      () => {
        const beta = values(CHANNELS);
        for (const bn of [known, twin]) if (bn.beta) bn.beta = beta.slice();
      },
      () => {
        const mean = values(CHANNELS);
        for (const bn of [known, twin]) bn.runningMean?.set(mean);
      },
      () => {
        if (layerOptions.renorm) for (const bn of [known, twin]) bn.renorm = bn.renorm ? null : { rMax: 2, dMax: 0.1 };
      },
      () => {
        world = pick(worlds);
        forward({ mode: "train" });
      },
      () =>
        forward({ mask: Array.from({ length: sizeOf(world.x[0]?.shape ?? []) / CHANNELS }, (_, p) => p % 4 !== 1) }),
      () => {
        const [mean, variance] = [Float64Array.from(values(CHANNELS)), Float64Array.of(1, 2, 3)];
        forward({ mode: "batch", statistics: { count: 100, mean, variance } });
      },
      () => forward({ perSample: { gamma: values(CHANNELS * (world.x[0]?.shape[0] ?? 0)) } }),
    ];
    forward({ mode: "train" });
    for (let step = 0; step < 200; step++) {
      if (next() < 0.5) forward({ mode: pick(MODES) });
      else pick(actions)();
    }
    // the sequence repeats forwards of the same tensors
    const same = forwards.filter((call, i) => i > 1 && call.slice(0, 3).every((v, k) => v === forwards[i - 2]?.[k]));
    expect(same.length).toBeGreaterThan(3);
  });
});

describe("a call that is repeated", () => {
  beforeAll(() => useBuild("simd"));

  const shape = [4, CHANNELS];
  const setUp = (options: Options = {}) => {
    const [x, dy, out, dxOut] = [1, 2, 3, 4].map((seed) => tensor(shape, normal(seed, 12))) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    const bn = new BatchNorm(CHANNELS, options);
    for (let i = 0; i < 4; i++) {
      bn.forward(x, { out });
      bn.backward(dy, { dxOut });
    }
    bn.forward(x, { out });
    return { bn, x, dy, out, dxOut };
  };

  test.each(["x", "out"] as const)("forward refuses %s that has been disposed of", (name) => {
    const tensors = setUp();
    drop(tensors[name]);
    expect(() => tensors.bn.forward(tensors.x, { out: tensors.out })).toThrow(`${name}: expected`);
  });

  test.each(["x", "dy", "dxOut"] as const)("backward refuses %s that has been disposed of", (name) => {
    const tensors = setUp();
    drop(tensors[name]);
    expect(() => tensors.bn.backward(tensors.dy, { dxOut: tensors.dxOut })).toThrow(`${name}: expected`);
  });

  test("forward and backward refuse tensors all of which have been disposed of", () => {
    const { bn, x, dy, out, dxOut } = setUp();
    for (const t of [dy, dxOut, x, out]) drop(t);
    expect(() => bn.backward(dy, { dxOut })).toThrow("dy: expected");
    expect(() => bn.forward(x, { out })).toThrow("x: expected");
  });

  test.each(["mask", "statistics", "perSample"] as const)("forward refuses a wrong %s", (name) => {
    const { bn, x, out } = setUp();
    expect(() => bn.forward(x, { out, [name]: null })).toThrow(name);
  });

  test("backward refuses wrong options", () => {
    const { bn, dy, dxOut } = setUp();
    expect(() => bn.backward(dy, { dxOut, accumulate: null as never })).toThrow("accumulate: expected");
    expect(() => bn.backward(dy, { dxOut, sums: null as never })).toThrow("sums: expected");
  });

  test("forward in the place of x, after which there is nothing to differentiate", () => {
    const [x, twin] = [tensor(shape, normal(1, 12)), { data: normal(1, 12), shape }];
    const [bn, other] = [new BatchNorm(CHANNELS).eval(), new BatchNorm(CHANNELS).eval()];
    for (let i = 0; i < 6; i++) {
      expect(bn.forward(x, { out: x }).data).toEqual(other.forward(twin, { out: twin }).data);
      expect(bn.saved).toBeUndefined();
    }
  });

  test("backward returns new vectors", () => {
    const { bn, dy, dxOut } = setUp();
    const { saved } = bn;
    const [a, b] = [bn.backward(dy, { dxOut }), bn.backward(dy, { dxOut, saved })];
    expect(a.dGamma).not.toBe(b.dGamma);
    expect(a.dBeta).not.toBe(b.dBeta);
  });

  test.each(["dy", "dxOut", "dResidualOut"] as const)("backward of the same forward takes another %s", (name) => {
    const make = (seed: number) => tensor(shape, normal(seed, 12));
    const [x, residual, out] = [make(1), make(2), make(3)];
    const bn = new BatchNorm(CHANNELS, { activation: "relu" });
    bn.forward(x, { residual, out });
    const { saved } = bn;
    const backward = ({ dy, dxOut, dResidualOut }: Record<"dy" | "dxOut" | "dResidualOut", Tensor>) => {
      const result = bn.backward(dy, { dxOut, dResidualOut, saved });
      expect(result.dx).toBe(dxOut);
      expect(result.dResidual).toBe(dResidualOut);
      return [dxOut.data.slice(), dResidualOut.data.slice(), result.dGamma, result.dBeta];
    };
    const tensors = { dy: make(4), dxOut: make(5), dResidualOut: make(6) };
    const before = backward(tensors);
    const other = { ...tensors, [name]: make(7) };
    const after = backward(other);
    if (name === "dy") expect(after).not.toEqual(before);
    // new tensors everywhere, which the layer cannot know
    expect(after).toEqual(backward({ dy: tensor(shape, other.dy.data), dxOut: make(8), dResidualOut: make(9) }));
  });

  test("backward with options does not change a later one of the same tensors without them", () => {
    const { bn, dy } = setUp();
    const { saved } = bn;
    const whole = bn.backward(tensor(shape, dy.data), { saved });
    bn.backward(dy, { saved, needs: { dx: false, dBeta: false } });
    const { dx, dGamma, dBeta } = bn.backward(dy, { saved });
    expect([dx?.data, dGamma, dBeta]).toEqual([whole.dx.data, whole.dGamma, whole.dBeta]);
  });

  test("forward throws for values that have become infinite, and changes no running statistics", () => {
    const { bn, x, out } = setUp();
    const before = bn.stateDict();
    x.data[0] = Infinity;
    expect(() => bn.forward(x, { out })).toThrow(/finite/);
    expect(bn.stateDict()).toEqual(before);
  });

  test("a layer that has been disposed of keeps no tensor", () => {
    const { bn, x } = setUp();
    bn.dispose();
    expect(() => bn.forward(x)).toThrow("disposed");
  });
});
