// Helpers for tests of wasm modules without the facade: exact-sized buffers between guard zones, a fast comparison of
// many elements, and the sections of a module.

import { expect } from "vitest";

/** Bytes of a guard zone: four vectors, so that a store one vector before or after a buffer lands in it. */
const GUARD = 64;
/** Address of the first guard zone: kernels read the pointer 0 as "none". */
const BASE = 1024;
/** Byte of unwritten memory. Its float32 and float64 are finite and large, so that a sum that includes one is wrong. */
const PATTERN = 0x7f;

export type Reals = Float32Array | Float64Array;
type ArenaArray = Reals | Uint8Array | Uint16Array;
type ArenaArrayType<T> = new (buffer: ArrayBuffer, byteOffset: number, length: number) => T;

export interface Buffer<T extends ArenaArray> {
  readonly pointer: number;
  readonly view: T;
}

export interface Region {
  readonly pointer: number;
  readonly bytes: number;
}

/** Hands out exact-sized buffers between guard zones, in one memory. */
export class Arena {
  readonly memory: WebAssembly.Memory;
  /** Whether elements are float64; they are float32 otherwise. */
  readonly wide: boolean;
  readonly #bytes: Uint8Array;
  #top = BASE;
  #live: Region[] = [];

  /** Makes an arena in a memory, which must not grow afterwards. */
  constructor(memory = new WebAssembly.Memory({ initial: 64 }), wide = false) {
    this.memory = memory;
    this.wide = wide;
    this.#bytes = new Uint8Array(memory.buffer);
  }

  #take<T extends ArenaArray>(
    type: ArenaArrayType<T>,
    size: number,
    length: number,
    values?: ArrayLike<number>,
  ): Buffer<T> {
    const pointer = Math.ceil((this.#top + GUARD) / 16) * 16;
    const end = pointer + length * size + GUARD;
    this.#bytes.fill(PATTERN, this.#top, end);
    this.#live.push({ pointer, bytes: length * size });
    this.#top = end;
    const view = new type(this.memory.buffer, pointer, length);
    if (values) view.set(values);
    return { pointer, view };
  }

  f32 = (values: ArrayLike<number>) => this.#take(Float32Array, 4, values.length, values);
  f64 = (values: ArrayLike<number>) => this.#take(Float64Array, 8, values.length, values);
  u16 = (values: ArrayLike<number>) => this.#take(Uint16Array, 2, values.length, values);
  u8 = (length: number) => this.#take(Uint8Array, 1, length);

  /** Returns a buffer of the element type under test. */
  real = (values: ArrayLike<number>): Buffer<Reals> => (this.wide ? this.f64(values) : this.f32(values));
  round = (value: number): number => (this.wide ? value : Math.fround(value));

  /** Replaces the last buffer by these regions of it, so that the bytes between them are guarded. */
  guardBetween(regions: readonly Region[]): void {
    this.#live.splice(-1, 1, ...regions);
  }

  /** Fails if a byte of a guard zone was written, and releases all buffers. */
  close(): void {
    let written = -1;
    let address = BASE;
    for (const { pointer, bytes } of [...this.#live, { pointer: this.#top, bytes: 0 }]) {
      for (; address < pointer; address++) if (this.#bytes[address] !== PATTERN) written = address;
      address = pointer + bytes;
    }
    this.#top = BASE;
    this.#live = [];
    if (written >= 0) expect.fail(`the guard byte at ${written} was written`);
  }
}

export const UNWRITTEN = 12345;
export const blank = (length: number) => new Float64Array(length).fill(UNWRITTEN);

/** Whether two numbers are equal. 0 equals −0, and NaN equals NaN. */
export const equal = (a: number, b: number): boolean => a === b || (Number.isNaN(a) && Number.isNaN(b));

/** Fails for the first element that differs, and for another length. One assertion for all elements is fast. */
export function expectSame(
  got: ArrayLike<number>,
  expected: ArrayLike<number>,
  name: (i: number) => string,
  same: (got: number, expected: number) => boolean = Object.is,
): void {
  let i = 0;
  while (i < expected.length && same(got[i] as number, expected[i] as number)) i++;
  if (i < expected.length) expect.fail(`${name(i)} is ${got[i]}, and should be ${expected[i]}`);
  if (got.length !== expected.length) expect.fail(`${got.length} values, and not ${expected.length}`);
}

/** Numbers of the sections of a wasm module. */
export const Section = { Type: 1, Function: 3, Table: 4, Global: 6, Start: 8, Code: 10, Data: 11 } as const;

/** Returns the sections of a wasm module by number. Of several custom sections it returns the last. */
export function sectionsOf(bytes: Uint8Array): Map<number, Uint8Array> {
  const sections = new Map<number, Uint8Array>();
  // the magic number and the version are 8 bytes
  for (let offset = 8; offset < bytes.length; ) {
    const section = bytes[offset++] as number;
    let size = 0;
    // LEB128: 7 bits a byte, and the highest bit tells that another byte follows
    for (let shift = 0, byte = 0x80; byte & 0x80; shift += 7) {
      byte = bytes[offset++] as number;
      size |= (byte & 0x7f) << shift;
    }
    sections.set(section, bytes.subarray(offset, offset + size));
    offset += size;
  }
  return sections;
}
