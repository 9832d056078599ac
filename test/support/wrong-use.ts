// Tests of tables of wrong calls. Every call must throw an error of the right class whose message has the name, the
// expected and the actual value and a remedy. It must throw before it writes anything.

import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { BatchNorm, type Tensor, type TensorLike, tensor } from "../../src/index.ts";
import { drop, make, normal, sizeOf, useBuild, WORLDS } from "./worlds.ts";

// biome-ignore lint/suspicious/noExplicitAny: wrong uses are what the types forbid
export type Wrong = any;

export const SHAPE = [4, 3, 2];

/** Objects that a wrong call may use. All are usable and have the right shape, except `gone`, which is disposed of. */
interface Scene {
  bn: BatchNorm;
  x: TensorLike;
  dy: TensorLike;
  out: TensorLike;
  vector: Float32Array;
  /** Returns an input of another shape. */
  of(shape: readonly number[]): TensorLike;
  gone: Tensor;
}

export type Row = [what: string, call: (s: Scene) => unknown, kind: ErrorConstructor | string, message: RegExp];

/** Tests every row of a table in every world. The keys of the table are the subjects of its rows. */
export function testWrongUse(table: Record<string, Row[]>): void {
  describe.each(WORLDS)("wrong use ($build, $kind)", ({ build, kind }) => {
    beforeAll(() => useBuild(build));

    let scene: Scene;
    beforeEach(() => {
      const of = (shape: readonly number[]) => make(kind, shape, normal(5, sizeOf(shape)));
      const bn = new BatchNorm(3);
      const [x, dy, out, gone] = [of(SHAPE), of(SHAPE), of(SHAPE), tensor(SHAPE)];
      bn.forward(x, { out });
      bn.backward(dy, { dxOut: out });
      drop(bn.forward(x)); // a forward whose backward is pending
      gone.dispose();
      scene = { bn, x, dy, out, vector: Float32Array.of(1, 2, 3), of, gone };
    });
    afterEach(() => {
      scene.bn.dispose();
      drop(scene.x, scene.dy, scene.out);
    });

    describe.each(Object.entries(table))("of %s", (_, rows) => {
      test.each(rows)("%s: the error names it, and nothing is written", (_, call, error, message) => {
        const { bn, x, dy, out, vector } = scene;
        const everything = () => [
          ...[x, dy, out].map((t) => t.data.slice()),
          vector.slice(),
          bn.stateDict(),
          [bn.mode, bn.dGamma?.slice(), bn.dBeta?.slice()],
        ];
        const before = everything();
        expect(() => call(scene)).toThrow(message);
        expect(() => call(scene)).toThrow(
          typeof error === "string"
            ? (expect.objectContaining({ name: "BatchNormError", code: error }) as Error)
            : error,
        );
        expect(everything()).toEqual(before);
        const [dGamma, dBeta] = [bn.dGamma, bn.dBeta];
        expect(bn.backward(dy, { dxOut: out })).toMatchObject({ dGamma, dBeta });
        expect(out.data).toEqual(before[2]);
      });
    });
  });
}

/** Returns the errors of calls that all fail. */
export const errorsOf = (calls: readonly Promise<unknown>[]) =>
  Promise.all(
    calls.map((call) =>
      call.then(
        () => expect.unreachable("a call succeeded"),
        (error: Error & { code?: string }) => error,
      ),
    ),
  );
