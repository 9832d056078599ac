// The builds of the kernels: which one runs, which one `init` is asked for, and which modules of the host it takes.

import { readFileSync } from "node:fs";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import "../support/relaxed-simd.ts";
import { relaxedSimd } from "../../src/common/engine.ts";
import { BatchNorm, type BuildName, init, kernelInfo, stopThreads, tensor } from "../../src/index.ts";
import { normal, wasmFile } from "../support/worlds.ts";

const compiled = (name: Parameters<typeof wasmFile>[0]) => new WebAssembly.Module(readFileSync(wasmFile(name)));

/** The bits of y of a build, which tell whether multiplication and addition are fused. */
function bits(): Uint32Array {
  const y = new BatchNorm(4).forward(tensor([40_000, 4], normal(1, 160_000)));
  return new Uint32Array(y.data.slice().buffer);
}

const builds: BuildName[] = relaxedSimd() ? ["simd", "relaxed"] : ["simd"];

beforeEach(() => init({ build: "simd" }));
afterAll(stopThreads);

describe("init({ build })", () => {
  it.each(builds)('"%s" runs that build, on one thread and on two', async (build) => {
    await init({ module: compiled(build) });
    const expected = bits();
    for (const threads of [1, 2]) {
      await init({ build, threads });
      expect(kernelInfo()).toMatchObject({ build, buildReason: "init was asked for it", threads });
      expect(bits()).toEqual(expected);
    }
  });

  it.runIf(relaxedSimd())("the two builds differ in bits", async () => {
    const before = bits();
    await init({ build: "relaxed" });
    expect(bits()).not.toEqual(before);
  });

  it("without it, the build is the best for the engine", async () => {
    await init({ threads: 1 });
    expect(kernelInfo().build).toBe(relaxedSimd() ? "relaxed" : "simd");
  });

  it.each([
    ["fast", RangeError, /^build: expected "simd" or "relaxed", got "fast"$/],
    [1, TypeError, /^build: expected a string, got 1$/],
    [null, TypeError, /^build: expected a string, got null$/],
  ])("%j is refused, and nothing changes", async (build, kind, message) => {
    const before = kernelInfo();
    const refused = init({ build } as never);
    await expect(refused).rejects.toThrow(message);
    await expect(refused).rejects.toThrow(kind);
    expect(kernelInfo()).toEqual(before);
  });

  it("is refused beside a module", async () => {
    const options = { build: "simd", module: compiled("simd") } as const;
    await expect(init(options)).rejects.toThrow(/^build: expected undefined beside the option module, got "simd"$/);
  });
});

describe("init({ module, extended })", () => {
  it("takes the builds of the core and the second module", async () => {
    await init({ module: compiled("simd"), extended: compiled("extended") });
    expect(kernelInfo()).toMatchObject({ build: "simd", buildReason: "init was given this module" });
    expect(new BatchNorm(4, { activation: "relu" }).forward(tensor([4, 4])).data).toHaveLength(16);
  });

  it.each([...builds.map((build) => [build, build] as const), ["debug", "given"] as const])(
    "%s.wasm is known as %s",
    async (file, build) => {
      await init({ module: compiled(file) });
      expect(kernelInfo().build).toBe(build);
    },
  );

  /** (module), which imports and exports nothing. */
  const empty = new WebAssembly.Module(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0));
  /** (module (memory 1) (func) (export "workspace" (func 0))), which has one name of the kernels. */
  const other = new WebAssembly.Module(
    Uint8Array.of(
      ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 5, 3, 1, 0, 1],
      ...[7, 13, 1, 9, ...new TextEncoder().encode("workspace"), 0, 0, 10, 4, 1, 2, 0, 11],
    ),
  );
  const refused = [
    ["standalone.wasm", compiled("standalone")],
    ["embed.wasm", compiled("embed")],
    ["an empty module", empty],
    ["a module of another program", other],
    ["bytes", readFileSync(wasmFile("simd"))],
    ["null", null],
    ["0", 0],
  ] as const;

  it.each([...refused, ["extended.wasm", compiled("extended")] as const])(
    "refuses %s as the core with a TypeError that names the files, and nothing changes",
    async (_, module) => {
      const before = kernelInfo();
      const result = init({ module } as never);
      await expect(result).rejects.toThrow(TypeError);
      await expect(result).rejects.toThrow(/^module: expected .* batchnorm-wasm\/simd\.wasm or relaxed\.wasm/);
      expect(kernelInfo()).toEqual(before);
      expect(new BatchNorm(4).forward(tensor([4, 4])).data).toHaveLength(16);
    },
  );

  it.each([...refused, ["simd.wasm", compiled("simd")] as const])(
    "refuses %s as the second module with a TypeError that names the file, and nothing changes",
    async (_, extended) => {
      const before = kernelInfo();
      const result = init({ extended } as never);
      await expect(result).rejects.toThrow(TypeError);
      await expect(result).rejects.toThrow(/^extended: expected .* batchnorm-wasm\/extended\.wasm/);
      expect(kernelInfo()).toEqual(before);
    },
  );
});
