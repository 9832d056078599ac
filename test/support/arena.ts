// For tests of modules by themselves: exact-sized buffers between guard zones, a comparison that is quick with many
// elements, and the sections of a module.

import { expect } from "vitest";

const GUARD = 64;
const BASE = 1024;
/** Of memory that nobody has written: as float32 and as float64 finite and large, so that adding to it shows. */
const PATTERN = 0x7f;

export type Reals = Float32Array | Float64Array;
type View = Reals | Uint8Array | Uint16Array;
type ViewOf<T> = new (buffer: ArrayBuffer, at: number, length: number) => T;

export interface Buffer<T extends View> {
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

  /** In a memory that does not grow from here on. */
  constructor(memory = new WebAssembly.Memory({ initial: 64 }), wide = false) {
    this.memory = memory;
    this.wide = wide;
    this.#bytes = new Uint8Array(memory.buffer);
  }

  #take<T extends View>(type: ViewOf<T>, size: number, length: number, values?: ArrayLike<number>): Buffer<T> {
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

  /** Of the element type under test. */
  real = (values: ArrayLike<number>): Buffer<Reals> => (this.wide ? this.f64(values) : this.f32(values));
  round = (value: number): number => (this.wide ? value : Math.fround(value));

  /** Guards all of the last buffer but these regions; nobody has written beside them yet. */
  guardBetween(regions: readonly Region[]): void {
    this.#live.splice(-1, 1, ...regions);
  }

  /** Verifies the guard zones of all buffers and forgets the buffers. */
  close(): void {
    let touched = -1;
    let at = BASE;
    for (const { pointer, bytes } of [...this.#live, { pointer: this.#top, bytes: 0 }]) {
      for (; at < pointer; at++) if (this.#bytes[at] !== PATTERN) touched = at;
      at = pointer + bytes;
    }
    this.#top = BASE;
    this.#live = [];
    if (touched >= 0) expect.fail(`the guard byte at ${touched} was written`);
  }
}

export const UNWRITTEN = 12345;
export const blank = (length: number) => new Float64Array(length).fill(UNWRITTEN);

/** The same number: 0 and −0 are, NaN and NaN too. */
export const equal = (a: number, b: number): boolean => a === b || (Number.isNaN(a) && Number.isNaN(b));

/** One assertion instead of one for each of many thousand elements; the first that differs is named. */
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

/** Sections of a module that tests ask for, by their numbers. */
export const Section = { Type: 1, Function: 3, Table: 4, Global: 6, Start: 8, Code: 10, Data: 11 } as const;

/** A module's sections by number; of custom sections, the last. */
export function sectionsOf(bytes: Uint8Array): Map<number, Uint8Array> {
  const sections = new Map<number, Uint8Array>();
  for (let at = 8; at < bytes.length; ) {
    const section = bytes[at++] as number;
    let size = 0;
    for (let shift = 0, byte = 0x80; byte & 0x80; shift += 7) {
      byte = bytes[at++] as number;
      size |= (byte & 0x7f) << shift;
    }
    sections.set(section, bytes.subarray(at, at + size));
    at += size;
  }
  return sections;
}
