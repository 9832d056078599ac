// The fixture of examples/embedding, with which programs in other languages check themselves. Read as its README says,
// it is complete. The kernels keep their error bounds on it, and both modules write the same bits.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { EMBED_BUILDS, wasmFile } from "../support/worlds.ts";

const path = (file: string | URL) => fileURLToPath(new URL(file, import.meta.url));

const fixtures = EMBED_BUILDS.map((build) => {
  const out = path(`../../build/golden-${build}.bin`);
  execFileSync(process.execPath, [path("../../examples/embedding/golden.mjs"), out, path(wasmFile(build))]);
  return Uint8Array.from(readFileSync(out));
});

/** Reads one array after the other. */
class Reader {
  readonly #buffer: ArrayBuffer;
  #at = 0;

  constructor(buffer: ArrayBuffer) {
    this.#buffer = buffer;
  }

  align(): void {
    this.#at = Math.ceil(this.#at / 8) * 8;
  }

  #take<T>(Kind: new (buffer: ArrayBuffer, at: number, length: number) => T, length: number, bytes: number): T {
    const array = new Kind(this.#buffer, this.#at, length);
    this.#at += length * bytes;
    return array;
  }

  u32(length: number): Uint32Array {
    return this.#take(Uint32Array, length, 4);
  }

  f32(length: number): Float32Array {
    return this.#take(Float32Array, length, 4);
  }

  f64(length: number): Float64Array {
    this.align();
    return this.#take(Float64Array, length, 8);
  }

  get done(): boolean {
    return this.#at === this.#buffer.byteLength;
  }
}

it("holds its cases to the last byte, all of them within the promise", () => {
  const reader = new Reader((fixtures[0] as Uint8Array<ArrayBuffer>).buffer);
  const [count = 0] = reader.u32(1);
  const seen: string[] = [];
  for (let i = 0; i < count; i++) {
    reader.align();
    const [outer = 0, channels = 0, inner = 0, reserved] = reader.u32(4);
    expect(reserved).toBe(0);
    reader.f64(2);
    const n = outer * channels * inner;
    for (const length of [n, n, channels, channels]) reader.f32(length);
    for (const length of [channels, channels]) reader.f64(length);
    const references = [n, n, ...Array<number>(6).fill(channels)].map((length) => reader.f64(length));
    const scales = Array.from({ length: 8 }, () => reader.f64(channels));
    const got = [reader.f32(n), reader.f32(n), reader.f64(channels), reader.f64(channels)];
    for (const [k, values] of got.entries()) {
      const worst = Array.from(values).reduce((most, value, j) => {
        const scale = scales[k]?.[k < 2 ? Math.floor(j / inner) % channels : j] as number;
        return Math.max(most, Math.abs(value - (references[k]?.[j] as number)) / Math.max(2 ** -24 * scale, 2 ** -149));
      }, 0);
      expect(worst, `${[outer, channels, inner]}, output ${k}`).toBeLessThanOrEqual(k < 2 ? 4 : 1);
      if (k < 2) expect(worst).toBeGreaterThan(0.1); // float32 cannot do better: the units are right
    }
    seen.push(`${channels}, ${inner}`);
  }
  expect(reader.done).toBe(true);
  expect(seen).toEqual(expect.arrayContaining(["16, 49", "5, 4", "6, 1"]));
});

it("is the same from either module, and less than a megabyte", () => {
  const [a, b] = fixtures as [Uint8Array, Uint8Array];
  expect(Buffer.compare(a, b)).toBe(0);
  expect(a.length).toBeLessThan(2 ** 20);
});
