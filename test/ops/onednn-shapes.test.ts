// The shapes that oneDNN tests its batch, group and layer norm on (benchdnn), by the oracle and within the promise of
// docs/concepts/numerics.md. Shapes of more than 200,000 elements are left out, because the oracle is slow.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import {
  BatchNormError,
  batchNormBackward,
  batchNormForward,
  batchNormInference,
  groupNormForward,
  layerNormForward,
  type NormForwardResult,
  normBackward,
  type PlainTensor,
} from "../../src/index.ts";
import {
  dimsOf,
  errorOf,
  familyBackward,
  familyForward,
  groupsOf,
  type Membership,
  rowsOf,
  solve,
} from "../support/reference.ts";
import { LAYOUTS, normal, sizeOf, useBuild } from "../support/worlds.ts";

interface Shapes {
  readonly batchNorm: number[][];
  /** The number of groups stands before the shape. */
  readonly groupNorm: number[][];
  readonly layerNorm: number[][];
}

const { batchNorm, groupNorm, layerNorm } = JSON.parse(
  readFileSync(new URL("../support/onednn-shapes.json", import.meta.url), "utf8"),
) as Shapes;

const LARGEST = 200_000;
const U = 2 ** -24;
const EPSILON = 1e-5;

const small = (shape: readonly number[]) => sizeOf(shape) <= LARGEST;
const vectors = (length: number) => ({ gamma: normal(3, length, 0.5, 1), beta: normal(4, length) });

/** oneDNN's shapes have the channels first. */
const inLayout = ([n, c, ...spatial]: number[], layout: string) =>
  (layout === "channels-last" ? [n, ...spatial, c] : [n, c, ...spatial]) as number[];

describe.each(LAYOUTS)("batch norm, %s", (layout) => {
  beforeAll(() => useBuild("simd"));

  it.each(batchNorm.filter(small).map((shape) => [inLayout(shape, layout)]))("%j", (shape) => {
    const [x, dy] = [normal(1, sizeOf(shape), 2, 1), normal(2, sizeOf(shape))];
    const dims = dimsOf(shape, layout);
    const { gamma, beta } = vectors(dims.channels);
    const options = { layout, epsilon: EPSILON };
    const forward = () => batchNormForward({ data: x, shape }, { gamma, beta }, options);
    if (dims.outer * dims.inner === 1) {
      expect(forward).toThrow(BatchNormError);
      return;
    }
    const channelOf = (i: number) => Math.floor(i / dims.inner) % dims.channels;
    const check = (constant: { mean: Float64Array; variance: Float64Array } | undefined) => {
      const { y, saved } = constant
        ? batchNormInference({ data: x, shape }, { gamma, beta, ...constant }, options)
        : forward();
      const { dx, dGamma, dBeta } = batchNormBackward({ data: dy, shape }, saved);
      const right = solve({ shape, x, dy, gamma, beta, constant, ...options });
      expect(errorOf(y.data, right.y, right.yScale, U, channelOf)).toBeLessThanOrEqual(4);
      expect(errorOf(dx.data, right.dx, right.dxScale, U, channelOf)).toBeLessThanOrEqual(4);
      expect(errorOf(dGamma, right.dGamma, right.dGammaScale, U, (c) => c)).toBeLessThanOrEqual(1);
      expect(errorOf(dBeta, right.dBeta, right.dBetaScale, U, (c) => c)).toBeLessThanOrEqual(1);
    };
    check(undefined);
    check({ mean: Float64Array.from(beta), variance: Float64Array.from(gamma, (v) => v * v + 0.5) });
  });
});

/** A norm of the family on one shape: its groups, and its call. */
interface Case {
  readonly name: string;
  readonly shape: number[];
  readonly of: () => Membership;
  readonly run: (
    x: PlainTensor,
    parameters: { gamma: Float32Array; beta: Float32Array },
  ) => NormForwardResult<PlainTensor>;
}

const family: Case[] = [
  ...LAYOUTS.flatMap((layout) =>
    groupNorm.map(([groups, ...channelsFirst]) => {
      const shape = inLayout(channelsFirst, layout);
      return {
        name: `group norm of ${JSON.stringify(shape)} in ${groups} groups, ${layout}`,
        shape,
        of: () => groupsOf(shape, layout, groups as number),
        run: (x, parameters) => groupNormForward(x, groups as number, parameters, { layout, epsilon: EPSILON }),
      } satisfies Case;
    }),
  ),
  ...layerNorm.map((shape) => {
    const size = shape.at(-1) as number;
    return {
      name: `layer norm of ${JSON.stringify(shape)}`,
      shape,
      of: () => rowsOf(sizeOf(shape), size),
      run: (x, parameters) => layerNormForward(x, [size], parameters, { epsilon: EPSILON }),
    } satisfies Case;
  }),
].filter(({ shape }) => small(shape));

describe("the family", () => {
  beforeAll(() => useBuild("simd"));

  it.each(family)("$name", ({ shape, of, run }) => {
    const [data, dy] = [normal(1, sizeOf(shape), 2, 1), normal(2, sizeOf(shape))];
    const membership = of();
    const { gamma, beta } = vectors(membership.entries);
    const { y, saved } = run({ data, shape }, { gamma, beta });
    const { dx, dGamma, dBeta } = normBackward({ data: dy, shape }, saved);
    const forward = familyForward(data, membership, EPSILON, gamma, beta);
    const backward = familyBackward(dy, membership, forward, gamma);
    const group = (i: number) => membership.group[i] as number;
    expect(errorOf(y.data, forward.y, forward.scale, U, group)).toBeLessThanOrEqual(4);
    expect(errorOf(dx.data, backward.dx, backward.dxScale, U, group)).toBeLessThanOrEqual(4);
    // of a few values per channel, x̂ is rounded before it is summed (docs/concepts/family-measurements.md)
    expect(errorOf(dGamma ?? [], backward.dGamma, backward.dGammaScale, U, (c) => c)).toBeLessThanOrEqual(2.5);
    expect(errorOf(dBeta ?? [], backward.dBeta, backward.dBetaScale, U, (c) => c)).toBeLessThanOrEqual(1);
  });
});
