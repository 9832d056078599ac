// Activations and residuals: memory that they may overwrite, memory that they must not change, and calls without any
// effect of the call before.

import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import {
  type ActivationName,
  BatchNorm,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  type TensorLike,
  tensor,
} from "../../src/index.ts";
import { defaultHeap } from "../../src/memory/heap.ts";
import { ACTIVATIONS, BENT, MODES } from "../support/activations.ts";
import { drop, KINDS, type Kind, make, makeOf, normal, sizeOf, useBuild } from "../support/worlds.ts";

describe.each(KINDS)("what may be overwritten (%s)", (kind) => {
  beforeAll(() => useBuild("simd"));

  const made: TensorLike[] = [];
  afterEach(() => drop(...made.splice(0)));
  const shape = [6, 3, 40];
  const size = sizeOf(shape);
  const of = (data: Float32Array) => {
    const t = make(kind, shape, data);
    made.push(t);
    return t;
  };
  const input = (seed: number) => of(normal(seed, size));
  const junk = () => of(new Float32Array(size).fill(Number.NaN));
  const layer = (activation: ActivationName) => {
    const bn = new BatchNorm(3, { activation });
    return Object.assign(bn, { gamma: Float32Array.of(1, -2, 3), beta: Float32Array.of(0.5, 0, -1) });
  };
  const refused = (call: () => unknown, message: RegExp) => {
    expect(call).toThrow(expect.objectContaining({ name: "BatchNormError", code: "in-place" }) as Error);
    expect(call).toThrow(message);
  };

  test.each(ACTIVATIONS)("%s: y over the residual, wherever backward does not need it", (activation) => {
    for (const mode of MODES) {
      const bn = layer(activation);
      const [x, residual] = [input(1), input(2)];
      const expected = layer(activation).forward(input(1), { mode, residual: input(2) });
      made.push(expected);
      const before = bn.stateDict();
      const call = () => bn.forward(x, { mode, residual, out: residual });
      if (activation !== "none" && mode !== "eval") {
        refused(
          call,
          new RegExp(`^out: expected other memory than residual in mode "${mode}", got memory of residual, `),
        );
        expect(residual.data).toBeAllclose(normal(2, size));
        expect(bn.stateDict()).toEqual(before);
        continue;
      }
      expect(call()).toBe(residual);
      expect(residual.data).toBeAllclose(expected.data);
      if (activation === "none") {
        const { dx, dResidual } = bn.backward(input(3));
        made.push(dx as TensorLike, dResidual as TensorLike);
        expect(dResidual?.data).toBeAllclose(normal(3, size));
      } else expect(() => bn.backward(input(3))).toThrow(expect.objectContaining({ code: "no-forward" }) as Error);
    }
  });

  test("y over x, or over the residual, leaves batchNormInference nothing to differentiate", () => {
    const frozen = { mean: new Float32Array(3), variance: Float32Array.of(1, 2, 3) };
    for (const activation of ["none", "relu"] as const)
      for (const over of ["x", "residual"] as const) {
        const given = { x: input(1), residual: input(2) };
        const { residual } = given;
        const expected = batchNormInference(input(1), frozen, { activation, residual: input(2) });
        const { y, saved } = batchNormInference(given.x, frozen, { activation, residual, out: given[over] });
        made.push(expected.y);
        expect(y).toBe(given[over]);
        expect(y.data).toBeAllclose(expected.y.data);
        const call = () => made.push(batchNormBackward(input(3), saved).dx as TensorLike);
        if (over === "residual" && activation === "none") call();
        else expect(call).toThrow(expect.objectContaining({ code: "no-forward" }) as Error);
      }
  });

  test("without an activation, backward does not need the residual: it may change, or be gone", () => {
    const bn = layer("none");
    const residual = input(2);
    made.push(bn.forward(input(1), { residual }));
    residual.data.fill(Number.NaN);
    drop(residual);
    const { dx, dResidual } = bn.backward(input(3));
    made.push(dx as TensorLike, dResidual as TensorLike);
    expect(dResidual?.data).toBeAllclose(normal(3, size));
    expect(dx?.data.every(Number.isFinite)).toBe(true);
  });

  test.each(ACTIVATIONS)(
    "%s: dx or dResidual over dy, but not over each other, nor over what backward reads",
    (activation) => {
      const run = (residual: boolean, options: (dy: TensorLike) => object) => {
        const bn = layer(activation);
        const [x, r] = [input(1), input(2)];
        made.push(bn.forward(x, residual ? { residual: r } : {}));
        const dy = input(3);
        const g = bn.backward(dy, options(dy));
        made.push(...[g.dx, g.dResidual].filter((t) => t !== undefined));
        return { dy, x, r, bn, g, values: [g.dx?.data.slice(), g.dResidual?.data.slice(), g.dGamma, g.dBeta] };
      };
      for (const residual of [true, false]) {
        const { values, bn, x, r } = run(residual, () => ({}));
        const over = run(residual, (dy) => ({ dxOut: dy }));
        expect(over.g.dx).toBe(over.dy);
        expect(over.values).toEqual(values);
        const given = run(residual, () => ({ dxOut: junk(), ...(residual && { dResidualOut: junk() }) }));
        expect(given.values).toEqual(values);
        if (!residual) {
          expect(() => bn.backward(input(3), { saved: bn.saved, dResidualOut: junk() })).toThrow(
            new RangeError("dResidualOut: expected a forward with a residual before it, got none"),
          );
          continue;
        }
        const other = run(true, (dy) => ({ dResidualOut: dy }));
        expect(other.g.dResidual).toBe(other.dy);
        expect(other.values).toEqual(values);
        const [a, dy, saved] = [junk(), input(3), bn.saved];
        refused(
          () => bn.backward(dy, { saved, dxOut: a, dResidualOut: a }),
          /^dResidualOut: expected other memory than dxOut, /,
        );
        refused(
          () => bn.backward(dy, { saved, dResidualOut: x }),
          /^dResidualOut: expected other memory than x, got memory of x, which backward needs; pass another tensor, or dy itself$/,
        );
        if (activation === "none") continue;
        for (const name of ["dxOut", "dResidualOut"])
          refused(
            () => bn.backward(dy, { saved, [name]: r }),
            new RegExp(`^${name}: expected other memory than residual, got `),
          );
        expect(r.data).toBeAllclose(normal(2, size));
      }
    },
  );

  test("needs switch dx and dResidual off, and change no bit of what is left", () => {
    for (const activation of ACTIVATIONS) {
      const bn = layer(activation);
      made.push(bn.forward(input(1), { residual: input(2) }));
      const all = bn.backward(input(3));
      made.push(all.dx as TensorLike, all.dResidual as TensorLike);
      const expected = { dx: all.dx?.data.slice(), dResidual: all.dResidual?.data.slice() };
      const sums = { dGamma: all.dGamma?.slice(), dBeta: all.dBeta?.slice() };
      for (const dx of [true, false])
        for (const dResidual of [true, false])
          for (const rest of [true, false]) {
            const g = bn.backward(input(3), { saved: bn.saved, needs: { dx, dResidual, dGamma: rest, dBeta: rest } });
            made.push(...[g.dx, g.dResidual].filter((t) => t !== undefined));
            expect(Object.keys(g).sort()).toEqual(
              Object.entries({ dBeta: rest, dGamma: rest, dResidual, dx })
                .filter(([, wanted]) => wanted)
                .map(([name]) => name)
                .sort(),
            );
            if (dx) expect(g.dx?.data).toBeAllclose(expected.dx ?? []);
            if (dResidual) expect(g.dResidual?.data).toBeAllclose(expected.dResidual ?? []);
            if (rest) expect({ dGamma: g.dGamma, dBeta: g.dBeta }).toEqual(sums);
          }
    }
  });

  test("NaN and infinity in a residual stay in their element, in y; and in their channel, in gradients", () => {
    for (const activation of ACTIVATIONS)
      for (const poison of [Number.NaN, Infinity, -Infinity]) {
        const run = (bad: boolean) => {
          const bn = layer(activation);
          const data = normal(2, size);
          if (bad) data[45] = poison; // of channel 1
          const y = bn.forward(input(1), { residual: of(data) });
          const { dx, dResidual, dGamma, dBeta } = bn.backward(input(3));
          made.push(y, dx as TensorLike, dResidual as TensorLike);
          return { y: y.data.slice(), dx: dx?.data.slice(), dGamma, dBeta, state: bn.stateDict() };
        };
        const [poisoned, clean] = [run(true), run(false)];
        if (Number.isNaN(poison)) expect(poisoned.y[45]).toBeNaN();
        expect(poisoned.y.filter((_, i) => i !== 45)).toBeAllclose(clean.y.filter((_, i) => i !== 45));
        const healthy = (_: number, i: number) => Math.floor(i / 40) % 3 !== 1;
        expect(poisoned.dx?.filter(healthy)).toBeAllclose(clean.dx?.filter(healthy) ?? []);
        for (const c of [0, 2])
          expect([poisoned.dGamma?.[c], poisoned.dBeta?.[c]]).toEqual([clean.dGamma?.[c], clean.dBeta?.[c]]);
        expect(poisoned.state).toEqual(clean.state);
      }
  });

  test("NaN in x makes its channel's y NaN, and lets dy through, as PyTorch's ReLU does", () => {
    const data = normal(1, size);
    data[45] = Number.NaN;
    for (const activation of BENT) {
      const bn = new BatchNorm(3, { activation, onNonFinite: "allow" });
      const y = bn.forward(of(data));
      made.push(y);
      expect([...y.data].map((v, i) => Number.isNaN(v) === (Math.floor(i / 40) % 3 === 1))).not.toContain(false);
      const { dx, dBeta } = bn.backward(input(3));
      made.push(dx as TensorLike);
      expect(dx?.data.slice(40, 80).every(Number.isNaN)).toBe(true);
      expect(dx?.data.slice(0, 40).every(Number.isFinite)).toBe(true);
      if (activation === "relu") expect(Number.isFinite(dBeta?.[1])).toBe(true);
    }
  });

  test("backward again, and of a later forward, is backward once: nothing is left of the one before", () => {
    const mask = { lengths: [40, 3, 0, 17, 1, 39] };
    for (const [options, more] of [
      [{ activation: "relu" }, {}],
      [{ activation: "relu", ghostBatchSize: 4 }, {}],
      [{ activation: "silu" }, { mask }],
    ] as const) {
      const bn = new BatchNorm(3, options);
      const results = [1, 1, 2, 1].map((seed) => {
        made.push(bn.forward(input(seed), more));
        return [1, 2].map(() => {
          const { dx, dGamma, dBeta } = bn.backward(input(3), { saved: bn.saved });
          made.push(dx as TensorLike);
          return [dx?.data.slice(), dGamma, dBeta];
        });
      });
      for (const k of [0, 1, 3]) for (const again of results[k] ?? []) expect(again).toEqual(results[0]?.[0]);
      expect(results[2]?.[1]).toEqual(results[2]?.[0]);
      expect(results[2]).not.toEqual(results[0]);
    }
  });

  test("the functions compute what the layer computes, bit for bit", () => {
    for (const activation of ACTIVATIONS) {
      const bn = layer(activation);
      const { gamma, beta } = bn;
      const [x, residual] = [input(1), input(2)];
      const y = bn.forward(x, { residual, mode: "batch" });
      const a = bn.backward(input(3));
      const f = batchNormForward(x, { gamma, beta }, { residual, activation });
      const b = batchNormBackward(input(3), f.saved);
      made.push(y, f.y, ...([a.dx, a.dResidual, b.dx, b.dResidual] as TensorLike[]));
      expect(f.y.data).toEqual(y.data);
      expect([b.dx?.data, b.dResidual?.data, b.dGamma, b.dBeta]).toEqual([
        a.dx?.data,
        a.dResidual?.data,
        a.dGamma,
        a.dBeta,
      ]);
      const frozen = { gamma, beta, mean: new Float32Array(3), variance: new Float32Array(3).fill(1) };
      const inferred = batchNormInference(x, frozen, { residual, activation });
      const e = bn.forward(x, { residual, mode: "frozen" });
      made.push(inferred.y, e);
      expect(inferred.y.data).toEqual(e.data);
    }
  });

  test.each<[string, (x: TensorLike) => unknown, string | ErrorConstructor, RegExp]>([
    [
      "another shape",
      () => make(kind, [6, 40, 3], new Float32Array(size)),
      RangeError,
      /^residual: expected shape 6×3×40, got 6×40×3$/,
    ],
    [
      "too few values",
      () => ({ data: new Float32Array(3), shape }),
      RangeError,
      /^residual: expected 720 elements \(6×3×40\), got 3$/,
    ],
    ["null", () => null, TypeError, /^residual: expected a Tensor or .*, got null$/],
    [
      "another type",
      () => makeOf("float64", kind, shape, new Float64Array(size)),
      TypeError,
      /^residual\.data: expected a Float32Array, got Float64Array\(720\)$/,
    ],
    [
      "a tensor that was disposed",
      () => {
        const t = tensor(shape);
        t.dispose();
        return t;
      },
      "disposed",
      /^residual: expected one that is alive/,
    ],
  ])("a residual that is %s is refused before anything is written", (_, wrong, error, message) => {
    const bn = layer("relu");
    const [x, out] = [input(1), input(2)];
    const state = bn.stateDict();
    const call = () => bn.forward(x, { residual: wrong(x) as TensorLike, out });
    expect(call).toThrow(message);
    expect(call).toThrow(typeof error === "string" ? (expect.objectContaining({ code: error }) as Error) : error);
    expect(() => batchNormForward(x, {}, { residual: wrong(x) as TensorLike, out })).toThrow(message);
    expect(bn.stateDict()).toEqual(state);
    expect(out.data).toBeAllclose(normal(2, size));
  });

  test("a residual that changed its length or died since forward is refused by backward", () => {
    const bn = layer("relu");
    const residual = input(2);
    made.push(bn.forward(input(1), { residual }));
    if (kind === "tensor") drop(residual);
    else Object.assign(residual, { data: new Float32Array(3) });
    expect(() => bn.backward(input(3))).toThrow(/^residual: expected /);
  });
});

describe("memory", () => {
  beforeAll(() => useBuild("simd"));

  test("with tensors and outputs given, a fused step allocates nothing in wasm memory", () => {
    for (const activation of ACTIVATIONS)
      for (const added of [false, true]) {
        const shape = [8, 3, 40];
        const t = (seed: number) => tensor(shape, normal(seed, 960));
        const [x, residual, dy, out, dxOut, dResidualOut] = [t(1), t(2), t(3), t(4), t(5), t(6)] as const;
        const bn = new BatchNorm(3, { activation });
        const step = () => {
          for (const mode of MODES) {
            bn.forward(x, { mode, out: out, ...(added && { residual: residual }) });
            bn.backward(dy, { dxOut: dxOut, ...(added && { dResidualOut: dResidualOut }) });
          }
        };
        step();
        const allocate = vi.spyOn(defaultHeap(), "allocate");
        step();
        expect(allocate).not.toHaveBeenCalled();
        allocate.mockRestore();
        drop(x, residual, dy, out, dxOut, dResidualOut);
      }
  });

  test.each(["plain", "tensor"] as const)("a residual of another kind than x: y is of x's kind (%s)", (kind) => {
    const shape = [6, 3, 40];
    const other: Kind = kind === "plain" ? "tensor" : "plain";
    const run = (kinds: readonly [Kind, Kind, Kind]) => {
      const [x, residual, dy] = kinds.map((k, i) => make(k, shape, normal(i, 720))) as [
        TensorLike,
        TensorLike,
        TensorLike,
      ];
      const bn = new BatchNorm(3, { activation: "silu" });
      const y = bn.forward(x, { residual });
      const { dx, dResidual, dGamma } = bn.backward(dy);
      expect([y, dx, dResidual].map((t) => t instanceof Object && "data" in t && t.shape.join())).toEqual([
        "6,3,40",
        "6,3,40",
        "6,3,40",
      ]);
      expect([y.constructor, dx?.constructor]).toEqual([x.constructor, dy.constructor]);
      const values = [y.data.slice(), dx?.data.slice(), dResidual?.data.slice(), dGamma];
      drop(x, residual, dy, y, dx, dResidual);
      return values;
    };
    const same = run([kind, kind, kind]);
    expect(run([kind, other, kind])).toEqual(same);
    expect(run([kind, other, other])).toEqual(same);
    expect(run([kind, kind, other])).toEqual(same);
  });
});
