// For tests of modules by themselves: exact-sized buffers between guard zones, a comparison that is quick with many
// elements, and the sections of a module.

import { expect } from "vitest";

const GUARD = 64;
const PATTERN = 0xa5;

export type Reals = Float32Array | Float64Array;

export interface Buffer<T extends Reals | Uint8Array | Uint16Array> {
  readonly pointer: number;
  readonly view: T;
}

/** Hands out exact-sized buffers between guard zones, in one memory. */
export class Arena {
  readonly memory: WebAssembly.Memory;
  /** What the export under test calls T. */
  wide = false;
  readonly #bytes: Uint8Array;
  #top = 1024;
  #live: { pointer: number; bytes: number }[] = [];

  /** In a memory that does not grow from here on. */
  constructor(memory = new WebAssembly.Memory({ initial: 64 })) {
    this.memory = memory;
    this.#bytes = new Uint8Array(memory.buffer);
  }

  #take(bytes: number): number {
    const pointer = Math.ceil((this.#top + GUARD) / 16) * 16;
    this.#bytes.fill(PATTERN, this.#top, pointer + bytes + GUARD);
    this.#live.push({ pointer, bytes });
    this.#top = pointer + bytes + GUARD;
    return pointer;
  }

  f32(values: ArrayLike<number>): Buffer<Float32Array> {
    const pointer = this.#take(values.length * 4);
    const view = new Float32Array(this.memory.buffer, pointer, values.length);
    view.set(values);
    return { pointer, view };
  }

  f64(values: ArrayLike<number>): Buffer<Float64Array> {
    const pointer = this.#take(values.length * 8);
    const view = new Float64Array(this.memory.buffer, pointer, values.length);
    view.set(values);
    return { pointer, view };
  }

  /** Of the element type under test. */
  real(values: ArrayLike<number>): Buffer<Reals> {
    return this.wide ? this.f64(values) : this.f32(values);
  }

  round(value: number): number {
    return this.wide ? value : Math.fround(value);
  }

  u16(values: ArrayLike<number>): Buffer<Uint16Array> {
    const pointer = this.#take(values.length * 2);
    const view = new Uint16Array(this.memory.buffer, pointer, values.length);
    view.set(values);
    return { pointer, view };
  }

  u8(length: number): Buffer<Uint8Array> {
    const pointer = this.#take(length);
    return { pointer, view: new Uint8Array(this.memory.buffer, pointer, length) };
  }

  /** Verifies the guard zones of all buffers and forgets the buffers. */
  close(): void {
    let touched = -1;
    let at = 1024;
    for (const { pointer, bytes } of [...this.#live, { pointer: this.#top, bytes: 0 }]) {
      for (; at < pointer; at++) if (this.#bytes[at] !== PATTERN) touched = at;
      at = pointer + bytes;
    }
    expect(touched, "address of a guard byte that was written").toBe(-1);
    this.#top = 1024;
    this.#live = [];
  }
}

export const UNWRITTEN = 12345;
export const blank = (length: number) => new Float64Array(length).fill(UNWRITTEN);

/** Counts instead of an assertion for each of many thousand elements; the first that differs is named. */
export function expectSame(got: ArrayLike<number>, expected: ArrayLike<number>, name: (i: number) => string): void {
  for (let i = 0; i < expected.length; i++)
    if (!Object.is(got[i], expected[i])) expect(got[i], name(i)).toBe(expected[i]);
  expect(got.length).toBe(expected.length);
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
