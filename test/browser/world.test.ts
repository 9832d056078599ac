// The page is isolated or not, as the name of its Vitest project says. Other suites rely on it.

import { expect, inject, test } from "vitest";

test("the page is isolated where the project says so, and has shared memory only there", () => {
  expect(crossOriginIsolated).toBe(inject("isolated"));
  expect("SharedArrayBuffer" in globalThis).toBe(inject("isolated"));
});
