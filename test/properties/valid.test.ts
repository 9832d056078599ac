// Valid calls of every public function, with all options, shapes, layouts, types and kinds of arrays: each gives what the
// oracle says. `npm run fuzz` runs more of them.

import { beforeAll, expect, test } from "vitest";
import * as core from "../../src/core.ts";
import * as lib from "../../src/index.ts";
import { checkValid, code, GENERATORS, valid } from "./machine.ts";
import { run } from "./run.ts";

beforeAll(() => lib.init({ build: "simd" }));

/** Returns the names of everything that an entry exports and its classes declare. */
function surfaceOf(entry: object): string[] {
  return Object.entries(entry).flatMap(([name, value]) => {
    if (typeof value !== "function") return [];
    const members = (object: object | undefined, omitted: readonly string[]) =>
      object === undefined
        ? []
        : Reflect.ownKeys(object)
            .filter((key) => !omitted.includes(String(key)))
            .map((key) =>
              typeof key === "symbol" ? `${name}[${key.description?.replace("nodejs.", "Symbol.")}]` : `${name}.${key}`,
            );
    const isClass = /^class\b/.test(Function.prototype.toString.call(value));
    if (!isClass) return [name];
    return [name, ...members(value.prototype, ["constructor"]), ...members(value, ["length", "name", "prototype"])];
  });
}

/** Members that are marked @internal, which index.d.ts leaves out. */
const INTERNAL = [
  ...["copyTo", "checkForward", "takesOne", "recordFor", "beginRecalibration"].map((name) => `BatchNorm.${name}`),
  ...["heap", "pointer", "is", "own"].map((name) => `Tensor.${name}`),
  "Diagnosis.from",
];

test("every public function, method and property has a generator of calls, and every generator a function", () => {
  const names = Object.keys(GENERATORS).filter((name) => !name.includes("()."));
  expect([...names, ...INTERNAL].sort()).toEqual(surfaceOf(lib).sort());
});

test("the small entry has functions of the complete one, so that their generators are its own", () => {
  for (const [name, value] of Object.entries(core)) expect(value, name).toBe((lib as Record<string, unknown>)[name]);
});

test("valid calls give what the oracle says", async () => {
  await run({
    name: "valid",
    names: Object.keys(GENERATORS),
    arbitrary: (name) => valid(name),
    check: (name, [spec]) => checkValid(name, spec),
    code: (name, [spec]) => code(name, spec),
  });
}, 0);
