// The equality tester of matchers.ts compares arrays of numbers as strictly as Vitest does without it.

import { describe, expect, it } from "vitest";

describe("toEqual", () => {
  it.each([
    ["the same numbers", Float32Array.of(1, 2), Float32Array.of(1, 2)],
    ["NaN", Float64Array.of(Number.NaN), Float64Array.of(Number.NaN)],
    ["no numbers", new Uint16Array(), new Uint16Array()],
    ["large integers", BigInt64Array.of(2n ** 62n), BigInt64Array.of(2n ** 62n)],
    ["bytes without elements", new DataView(new ArrayBuffer(2)), new DataView(new ArrayBuffer(2))],
  ])("takes %s for equal, alone and inside of others", (_, a, b) => {
    expect(a).toEqual(b);
    expect({ list: [a] }).toEqual({ list: [b] });
    expect(new Map([["a", a]])).toStrictEqual(new Map([["a", b]]));
    expect({ a, more: 1 }).toMatchObject({ a: b });
  });

  it.each([
    ["one number", Float32Array.of(1, 2, 3), Float32Array.of(1, 2, 4)],
    ["the first of many", new Float32Array(5000), new Float32Array(5000).fill(1, 0, 1)],
    ["the last of many", new Float32Array(5000), new Float32Array(5000).fill(1, 4999)],
    ["the sign of 0", Float32Array.of(0), Float32Array.of(-0)],
    ["NaN", Float32Array.of(Number.NaN), Float32Array.of(0)],
    ["one that is missing", Float32Array.of(1, 2), Float32Array.of(1)],
    ["one too many", Float32Array.of(1), Float32Array.of(1, 0)],
    ["large integers", BigInt64Array.of(2n ** 62n), BigInt64Array.of(2n ** 62n + 1n)],
    ["the type of elements", Float32Array.of(1), Float64Array.of(1)],
  ])("sees a difference in %s, alone and inside of others", (_, a, b) => {
    for (const [x, y] of [
      [a, b],
      [b, a],
    ]) {
      expect(x).not.toEqual(y);
      expect({ list: [x] }).not.toEqual({ list: [y] });
      expect(new Map([["a", x]])).not.toStrictEqual(new Map([["a", y]]));
      expect({ a: x, more: 1 }).not.toMatchObject({ a: y });
    }
  });

  it("sees a difference between an array with a type and one without", () => {
    expect(Float32Array.of(1)).not.toEqual([1]);
    expect([1]).not.toEqual(Float32Array.of(1));
  });

  it("fails with the message of Vitest", () => {
    expect(() => expect(Float32Array.of(1, 2, 3)).toEqual(Float32Array.of(1, 2, 4))).toThrow(/to deeply equal/);
  });
});
