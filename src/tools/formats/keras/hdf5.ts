// Groups, datasets and attributes of an HDF5 file, as h5py writes them by default and with libver="latest". Only the ranges
// that are asked for are read. Source: "HDF5 File Format Specification Version 3.0", whose section numbers are given below.
//
// A file may claim anything, so that nothing is allocated before it is known to fit into the file. In a file that is right,
// the parts do not overlap, so that all that is read once is no longer than the file. Reading more is an error (`claim`),
// which ends cycles, and shared parts that would be read again and again.

import { unzlibSync } from "fflate";
import { asIs, wrongFile } from "../../../common/errors.ts";
import type { SafetensorsDtype } from "../../../interop/safetensors.ts";
import { type ByteSource, readRange } from "../../source.ts";
import { inflated } from "./inflate.ts";

/** The first bytes of a file. */
export const SIGNATURE = "\x89HDF\r\n\x1a\n";

/** Groups inside groups deeper than this are refused. Models nest some ten deep. */
const MAX_DEPTH = 100;
/** The most bytes of a link's name. It is a chosen value; names of layers have some tens. */
const MAX_NAME = 1024;
/** The most axes of a dataset, by the format's library. */
const MAX_RANK = 32;

const MESSAGE = {
  dataspace: 1,
  linkInfo: 2,
  datatype: 3,
  link: 6,
  layout: 8,
  filters: 11,
  attribute: 12,
  continuation: 16,
  symbolTable: 17,
} as const;

const FILTER = { deflate: 1, shuffle: 2, fletcher32: 3 } as const;

/** The type of a dataset's elements. */
export interface Hdf5Type {
  /** Its name in messages, such as "float32". */
  readonly name: string;
  /** Bytes of an element. */
  readonly size: number;
  /** The type in a safetensors file, which is undefined for elements that it cannot hold. */
  readonly type: SafetensorsDtype | undefined;
}

/** A dataset, whose elements have not been read. */
export interface Hdf5Dataset {
  readonly shape: readonly number[];
  readonly type: Hdf5Type;
  /** The number of bytes of all elements. */
  readonly size: number;
  /** Returns the bytes of elements from `begin` up to, not including, `end`. */
  read(begin: number, end: number): Promise<Uint8Array>;
}

/** A group or a dataset, which has no elements then. */
export interface Hdf5Object {
  /** The path from the root, such as "model_weights/bn", which is empty for the root. */
  readonly path: string;
  readonly dataset: Hdf5Dataset | undefined;
  /** The names of the attributes. */
  readonly attributes: readonly string[];
  /** Returns an attribute that is one text, or undefined if there is none with this name. */
  text(name: string): Promise<string | undefined>;
}

interface Message {
  readonly type: number;
  readonly isShared: boolean;
  readonly data: Uint8Array;
}

/** Reads numbers one after the other, little-endian. Ends of data are errors of the file. */
class Cursor {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #end: () => Error;
  at = 0;

  constructor(bytes: Uint8Array, end: () => Error) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#end = end;
  }

  get left(): number {
    return this.#bytes.length - this.at;
  }

  take(length: number): Uint8Array {
    if (!(length <= this.left)) throw this.#end();
    this.at += length;
    return this.#bytes.subarray(this.at - length, this.at);
  }

  /** Moves to the next multiple of 8, or to the end. */
  align(): void {
    this.at = Math.min(this.#bytes.length, Math.ceil(this.at / 8) * 8);
  }

  /** Returns an unsigned integer of 1, 2, 4 or 8 bytes. From 2⁵³ on it is rounded, and no address or size is as large. */
  uint(bytes: number): number {
    this.take(bytes);
    const at = this.at - bytes;
    if (bytes === 1) return this.#view.getUint8(at);
    if (bytes === 2) return this.#view.getUint16(at, true);
    return bytes === 4 ? this.#view.getUint32(at, true) : Number(this.#view.getBigUint64(at, true));
  }
}

const ascii = (bytes: Uint8Array) => String.fromCharCode(...bytes);
const utf8 = new TextDecoder();

/** Returns a text up to its first zero. */
const untilZero = (bytes: Uint8Array) => {
  const end = bytes.indexOf(0);
  return utf8.decode(end < 0 ? bytes : bytes.subarray(0, end));
};

const product = (sizes: readonly number[]) => sizes.reduce((a, b) => a * b, 1);

/** An open file. */
class Hdf5File {
  readonly #source: ByteSource;
  #claimed = 0;
  /** Global heaps by address: their objects by index. */
  readonly #heaps = new Map<number, Promise<Map<number, Uint8Array>>>();

  constructor(source: ByteSource) {
    this.#source = source;
  }

  wrong(where: string, expected: string, got: unknown, remedy?: string): Error {
    return wrongFile(this.#source.name, where, expected, got, remedy);
  }

  /** Counts bytes that are read once, and characters of texts and paths, of which a right file has fewer than it has bytes. */
  claim(where: string, bytes: number): void {
    this.#claimed += bytes;
    const most = 4 * this.#source.size;
    if (!(this.#claimed <= most))
      throw this.wrong(where, "parts that do not overlap", asIs("parts larger than the file"));
  }

  /** Reads a part of the file. */
  async part(where: string, begin: number, length: number): Promise<Uint8Array> {
    this.claim(where, length);
    return readRange(this.#source, where, begin, begin + length);
  }

  /** Reads elements of a dataset, whose range has been claimed. */
  elements(where: string, begin: number, end: number): Promise<Uint8Array> {
    return readRange(this.#source, where, begin, end);
  }

  cursor(where: string, bytes: Uint8Array): Cursor {
    return new Cursor(bytes, () => this.wrong(where, "all its fields", asIs(`${bytes.length} bytes`)));
  }

  async cursorAt(where: string, begin: number, length: number): Promise<Cursor> {
    return this.cursor(where, await this.part(where, begin, length));
  }

  expectSignature(where: string, cursor: Cursor, signature: string): void {
    const found = ascii(cursor.take(signature.length));
    if (found !== signature) throw this.wrong(where, `the signature ${signature}`, found);
  }

  /** Returns the address of the root group's header (II.A). */
  async root(): Promise<number> {
    const where = "the superblock";
    const { size } = this.#source;
    const cursor = await this.cursorAt(where, 0, Math.min(96, size));
    this.expectSignature(where, cursor, SIGNATURE);
    const version = cursor.uint(1);
    if (version > 3) throw this.wrong(where, "a version from 0 to 3", version);
    if (version < 2) cursor.take(4);
    const [offsets, lengths] = [cursor.uint(1), cursor.uint(1)];
    if (offsets !== 8 || lengths !== 8)
      throw this.wrong(where, "addresses and lengths of 8 bytes", asIs(`${offsets} and ${lengths}`));
    // flags, and in the older versions constants of trees
    cursor.take(version < 2 ? ([9, 13][version] ?? 9) : 1);
    const base = cursor.uint(8);
    if (base !== 0) throw this.wrong(where, "a file that begins with HDF5", asIs(`an offset of ${base}`));
    // the older versions have three addresses and an entry, whose second address it is
    cursor.take(version < 2 ? 32 : 16);
    return cursor.uint(8);
  }

  /** Returns the messages of an object's header (IV.A.1). */
  async messages(where: string, address: number): Promise<Message[]> {
    const messages: Message[] = [];
    const [first] = await this.part(where, address, 1);
    const isOld = first === 1;
    const blocks: (readonly [begin: number, length: number])[] = [];
    let hasOrder = false;
    if (isOld) {
      const cursor = await this.cursorAt(where, address, 16);
      cursor.take(8);
      blocks.push([address + 16, cursor.uint(4)]);
    } else {
      const cursor = await this.cursorAt(where, address, 6);
      this.expectSignature(where, cursor, "OHDR");
      const version = cursor.uint(1);
      if (version !== 2) throw this.wrong(where, "the version 1 or 2", version);
      const flags = cursor.uint(1);
      hasOrder = (flags & 4) !== 0;
      const before = 6 + (flags & 32 ? 16 : 0) + (flags & 16 ? 4 : 0);
      const width = 1 << (flags & 3);
      const size = await this.cursorAt(where, address + before, width);
      blocks.push([address + before + width, size.uint(width)]);
    }
    for (let block = blocks.shift(); block; block = blocks.shift()) {
      const cursor = await this.cursorAt(where, ...block);
      const head = isOld ? 8 : hasOrder ? 6 : 4;
      while (cursor.left >= head) {
        const type = cursor.uint(isOld ? 2 : 1);
        const size = cursor.uint(2);
        const flags = cursor.uint(1);
        cursor.take(head - (isOld ? 5 : 4));
        const data = cursor.take(size);
        if (type === MESSAGE.continuation) {
          const place = this.cursor(where, data);
          const [begin, length] = [place.uint(8), place.uint(8)];
          // a newer block stands between a signature and a checksum
          blocks.push(isOld ? [begin, length] : [begin + 4, Math.max(0, length - 8)]);
        } else messages.push({ type, isShared: (flags & 2) !== 0, data });
      }
    }
    return messages;
  }

  /** Returns the addresses of a group's objects by name. Links to other places and files are left out. */
  async links(where: string, messages: readonly Message[]): Promise<Map<string, number>> {
    const links = new Map<string, number>();
    for (const { type, data } of messages) {
      const cursor = this.cursor(where, data);
      if (type === MESSAGE.symbolTable) await this.#oldLinks(where, cursor.uint(8), cursor.uint(8), links);
      else if (type === MESSAGE.link) this.#newLink(cursor, links);
      else if (type === MESSAGE.linkInfo) {
        cursor.take(1);
        if (cursor.uint(1) & 1) cursor.take(8);
        // all bits are set where there is none
        if (cursor.uint(8) < Number.MAX_SAFE_INTEGER)
          throw this.wrong(
            where,
            "links in the group's header or a symbol table",
            asIs("links in a fractal heap"),
            'write the file again by h5py without libver="latest" and track_order',
          );
      }
    }
    return links;
  }

  /** Adds one link of a newer group (IV.A.2.g). */
  #newLink(cursor: Cursor, links: Map<string, number>): void {
    cursor.take(1);
    const flags = cursor.uint(1);
    const type = flags & 8 ? cursor.uint(1) : 0;
    if (flags & 4) cursor.take(8);
    if (flags & 16) cursor.take(1);
    const name = utf8.decode(cursor.take(cursor.uint(1 << (flags & 3))));
    if (type === 0) links.set(name, cursor.uint(8));
  }

  /** Adds the links of an older group: a tree of symbol tables, with names in a heap (III.A.1, III.B, III.D). */
  async #oldLinks(where: string, tree: number, heap: number, links: Map<string, number>): Promise<void> {
    const cursor = await this.cursorAt(where, heap, 32);
    this.expectSignature(where, cursor, "HEAP");
    cursor.take(4);
    const length = cursor.uint(8);
    cursor.take(8);
    const names = await this.part(where, cursor.uint(8), length);
    for await (const { child } of this.leaves(where, tree, 0, 8)) {
      const head = await this.cursorAt(where, child, 8);
      this.expectSignature(where, head, "SNOD");
      head.take(2);
      const table = await this.cursorAt(where, child + 8, 40 * head.uint(2));
      while (table.left) {
        const begin = table.uint(8);
        const address = table.uint(8);
        const kind = table.uint(4);
        table.take(20);
        if (!(begin < names.length)) throw this.wrong(where, "a name inside its heap", begin);
        const name = untilZero(names.subarray(begin, begin + MAX_NAME));
        this.claim(where, name.length);
        if (kind !== 2) links.set(name, address); // 2 is a symbolic link
      }
    }
  }

  /**
   * Yields the children of the leaves of a tree of version 1, each with the key before it (III.A.1). `type` is 0 for groups
   * and 1 for chunks, and a key has `width` bytes.
   */
  async *leaves(
    where: string,
    address: number,
    type: number,
    width: number,
  ): AsyncGenerator<{ key: Cursor; child: number }> {
    const nodes: { at: number; level: number | undefined }[] = [{ at: address, level: undefined }];
    for (let node = nodes.pop(); node; node = nodes.pop()) {
      const head = await this.cursorAt(where, node.at, 24);
      this.expectSignature(where, head, "TREE");
      const [found, level, count] = [head.uint(1), head.uint(1), head.uint(2)];
      if (found !== type || (node.level !== undefined && node.level !== level))
        throw this.wrong(
          where,
          `a node of type ${type} and level ${node.level ?? "of any"}`,
          asIs(`${found}, ${level}`),
        );
      const rows = await this.cursorAt(where, node.at + 24, count * (width + 8));
      for (let i = 0; i < count; i++) {
        const key = this.cursor(where, rows.take(width));
        const child = rows.uint(8);
        if (level === 0) yield { key, child };
        else nodes.push({ at: child, level: level - 1 });
      }
    }
  }

  /** Returns an object of a global heap (III.E). */
  async heapObject(where: string, address: number, index: number): Promise<Uint8Array> {
    const heap = this.#heaps.get(address) ?? this.#readHeap(where, address);
    this.#heaps.set(address, heap);
    const found = (await heap).get(index);
    if (!found) throw this.wrong(where, `the object ${index} of the heap at ${address}`, asIs("none there"));
    return found;
  }

  async #readHeap(where: string, address: number): Promise<Map<number, Uint8Array>> {
    const head = await this.cursorAt(where, address, 16);
    this.expectSignature(where, head, "GCOL");
    head.take(4);
    const cursor = await this.cursorAt(where, address + 16, Math.max(0, head.uint(8) - 16));
    const objects = new Map<number, Uint8Array>();
    while (cursor.left >= 16) {
      const index = cursor.uint(2);
      cursor.take(6);
      const size = cursor.uint(8);
      if (index === 0) break; // the rest is free
      objects.set(index, cursor.take(size));
      cursor.align();
    }
    return objects;
  }

  /** Returns an attribute's name, and the function that reads it, if it is one text (IV.A.2.m). */
  attributeOf(where: string, { data }: Message): { name: string; text(): Promise<string | undefined> } {
    const cursor = this.cursor(where, data);
    const version = cursor.uint(1);
    const flags = cursor.uint(1);
    const sizes = [cursor.uint(2), cursor.uint(2), cursor.uint(2)];
    if (version === 3) cursor.take(1);
    const [found, type, space] = sizes.map((size) => {
      const part = cursor.take(size);
      if (version === 1) cursor.align();
      return part;
    }) as [Uint8Array, Uint8Array, Uint8Array];
    const value = data.subarray(cursor.at);
    const text = async () => {
      const cursor = this.cursor(where, value);
      const isShared = version > 1 && flags !== 0;
      if (isShared || this.shapeOf(where, space).length > 0) return undefined;
      const [first = 0, second = 0] = type;
      const size = this.cursor(where, type.subarray(4)).uint(4);
      if ((first & 15) === 3) return untilZero(cursor.take(size));
      if ((first & 15) !== 9 || (second & 15) !== 1) return undefined;
      const length = cursor.uint(4);
      const object = await this.heapObject(where, cursor.uint(8), cursor.uint(4));
      this.claim(where, length);
      return utf8.decode(object.subarray(0, length));
    };
    return { name: untilZero(found), text };
  }

  /** Returns a shape, which is [] of a scalar and [0] of a null dataspace (IV.A.2.b). */
  shapeOf(where: string, data: Uint8Array): number[] {
    const cursor = this.cursor(where, data);
    const [version, rank] = [cursor.uint(1), cursor.uint(1)];
    if (!(rank <= MAX_RANK)) throw this.wrong(where, `at most ${MAX_RANK} axes`, rank);
    cursor.take(1);
    const kind = cursor.uint(1);
    if (version === 1) cursor.take(4);
    else if (kind === 2) return [0];
    const shape = Array.from({ length: rank }, () => cursor.uint(8));
    if (!Number.isSafeInteger(product(shape)) || !shape.every(Number.isSafeInteger))
      throw this.wrong(where, "fewer than 2^53 elements", asIs(`[${shape}]`));
    return shape;
  }

  /** Returns the type of elements (IV.A.2.d). */
  typeOf(where: string, data: Uint8Array): Hdf5Type {
    const cursor = this.cursor(where, data);
    const kind = cursor.uint(1) & 15;
    const flags = cursor.uint(1);
    cursor.take(2);
    const size = cursor.uint(4);
    const isLittle = (flags & 1) === 0;
    if (kind === 0) {
      const name = `${flags & 8 ? "" : "u"}int${8 * size}`;
      return { name, size, type: isLittle ? INTEGERS[name] : undefined };
    }
    if (kind === 1) {
      cursor.take(5);
      const exponent = cursor.uint(1);
      const name = size === 2 && exponent === 8 ? "bfloat16" : `float${8 * size}`;
      const isKnown = (flags & 64) === 0 && isLittle && FLOATS[name]?.[0] === exponent;
      return { name, size, type: isKnown ? FLOATS[name]?.[1] : undefined };
    }
    // h5py writes booleans as an enumeration of bytes
    if (kind === 8 && size === 1) return { name: "bool", size, type: "BOOL" };
    return { name: KINDS[kind] ?? `the type ${kind}`, size, type: undefined };
  }

  /** Returns a dataset of a header, or undefined for a group. */
  datasetOf(where: string, messages: readonly Message[], isBfloat16: boolean): Hdf5Dataset | undefined {
    const find = (type: number) => {
      const found = messages.find((message) => message.type === type);
      if (found?.isShared) throw this.wrong(where, "a description of its own", asIs("one that is shared"));
      return found?.data;
    };
    const layout = find(MESSAGE.layout);
    if (!layout) return undefined;
    const [space, datatype] = [find(MESSAGE.dataspace), find(MESSAGE.datatype)];
    if (!space || !datatype) throw this.wrong(where, "a shape and a type", asIs("none"));
    const shape = this.shapeOf(where, space);
    const stored = this.typeOf(where, datatype);
    const type = isBfloat16 && stored.size === 2 ? ({ name: "bfloat16", size: 2, type: "BF16" } as const) : stored;
    const size = product(shape) * type.size;
    if (!Number.isSafeInteger(size))
      throw this.wrong(where, "fewer than 2^53 bytes", asIs(`[${shape}] of ${type.name}`));
    const read = this.#reader(where, layout, find(MESSAGE.filters), { shape, size, width: type.size });
    return { shape, type, size, read };
  }

  /** Returns the function that reads elements (IV.A.2.i). */
  #reader(
    where: string,
    layout: Uint8Array,
    filters: Uint8Array | undefined,
    { shape, size, width }: { shape: readonly number[]; size: number; width: number },
  ): Hdf5Dataset["read"] {
    const cursor = this.cursor(where, layout);
    const [version, kind] = [cursor.uint(1), cursor.uint(1)];
    if (version !== 3 && !(version === 4 && kind < 2))
      throw this.wrong(
        where,
        "chunks in a tree of version 1, or no chunks",
        asIs(`a layout of version ${version}`),
        'write the file again by h5py without libver="latest"',
      );
    if (size === 0) return async () => new Uint8Array(0);
    if (kind === 0) {
      const bytes = cursor.take(cursor.uint(2));
      if (bytes.length !== size) throw this.wrong(where, `${size} bytes`, bytes.length);
      return async (begin, end) => bytes.subarray(begin, end);
    }
    if (kind === 1) {
      const [address, stored] = [cursor.uint(8), cursor.uint(8)];
      if (stored !== size || !(address + size <= this.#source.size))
        throw this.wrong(where, `${size} bytes inside the file`, asIs(`${stored} bytes at ${address}`));
      this.claim(where, size);
      return (begin, end) => this.elements(where, address + begin, address + end);
    }
    if (kind !== 2) throw this.wrong(where, "a layout of chunks or of one range", asIs(`the class ${kind}`));
    const rank = cursor.uint(1) - 1;
    const address = cursor.uint(8);
    const chunk = Array.from({ length: Math.max(0, rank) }, () => cursor.uint(4));
    if (rank !== shape.length || cursor.uint(4) !== width || chunk.includes(0))
      throw this.wrong(where, `chunks of ${shape.length} axes`, asIs(`[${chunk}]`));
    const chunks = new Chunks(this, where, { shape, size, width, chunk, address }, this.#filtersOf(where, filters));
    return (begin, end) => chunks.read(begin, end);
  }

  /** Returns the numbers of filters in the order in which they were applied (IV.A.2.l). */
  #filtersOf(where: string, data: Uint8Array | undefined): number[] {
    if (!data) return [];
    const cursor = this.cursor(where, data);
    const [version, count] = [cursor.uint(1), cursor.uint(1)];
    if (version === 1) cursor.take(6);
    const filters = Array.from({ length: count }, () => {
      const id = cursor.uint(2);
      const name = version === 1 || id >= 256 ? cursor.uint(2) : 0;
      cursor.take(2);
      const values = cursor.uint(2);
      cursor.take(version === 1 ? Math.ceil(name / 8) * 8 : name);
      cursor.take(4 * (version === 1 ? values + (values % 2) : values));
      return id;
    });
    const other = filters.find((id) => !Object.values<number>(FILTER).includes(id));
    if (other !== undefined)
      throw this.wrong(
        where,
        "the filters gzip, shuffle and fletcher32",
        asIs(`filter ${other}`),
        "write it with gzip",
      );
    return filters;
  }
}

const INTEGERS: Readonly<Record<string, SafetensorsDtype>> = {
  ...{ int8: "I8", int16: "I16", int32: "I32", int64: "I64" },
  ...{ uint8: "U8", uint16: "U16", uint32: "U32", uint64: "U64" },
};
/** Floats: bits of the exponent, and the type. */
const FLOATS: Readonly<Record<string, readonly [exponent: number, type: SafetensorsDtype]>> = {
  float16: [5, "F16"],
  bfloat16: [8, "BF16"],
  float32: [8, "F32"],
  float64: [11, "F64"],
};
/** Names of other types, by their number. */
const KINDS: Readonly<Record<number, string>> = { 3: "text", 5: "opaque", 6: "compound", 8: "enum", 9: "text" };

interface Chunking {
  readonly shape: readonly number[];
  /** Bytes of all elements. */
  readonly size: number;
  /** Bytes of an element. */
  readonly width: number;
  /** The shape of a chunk. Chunks at the ends reach beyond the dataset. */
  readonly chunk: readonly number[];
  readonly address: number;
}

/** A chunk of the file. */
interface Stored {
  readonly begin: number;
  readonly length: number;
  /** The bits of filters that were not applied. */
  readonly skipped: number;
  readonly offsets: readonly number[];
}

/** A dataset in chunks. It is read as a whole, and kept until its end has been read. */
class Chunks {
  readonly #file: Hdf5File;
  readonly #where: string;
  readonly #chunking: Chunking;
  readonly #filters: readonly number[];
  #whole: Promise<Uint8Array> | undefined;
  #list: Promise<Stored[]> | undefined;

  constructor(file: Hdf5File, where: string, chunking: Chunking, filters: readonly number[]) {
    this.#file = file;
    this.#where = where;
    this.#chunking = chunking;
    this.#filters = filters;
  }

  async read(begin: number, end: number): Promise<Uint8Array> {
    this.#whole ??= this.#join();
    const whole = await this.#whole;
    if (end === this.#chunking.size) this.#whole = undefined;
    return whole.subarray(begin, end);
  }

  async #stored(): Promise<Stored[]> {
    const { shape, chunk, address } = this.#chunking;
    const rank = shape.length;
    const list: Stored[] = [];
    for await (const { key, child } of this.#file.leaves(this.#where, address, 1, 8 + 8 * (rank + 1))) {
      const [length, skipped] = [key.uint(4), key.uint(4)];
      const offsets = shape.map(() => key.uint(8));
      if (!offsets.every((offset, i) => offset % (chunk[i] as number) === 0 && offset < (shape[i] as number)))
        throw this.#file.wrong(this.#where, "chunks inside the dataset", asIs(`one at [${offsets}]`));
      this.#file.claim(this.#where, length);
      list.push({ begin: child, length, skipped, offsets });
    }
    const count = product(shape.map((size, i) => Math.ceil(size / (chunk[i] as number))));
    if (list.length !== count || new Set(list.map(({ offsets }) => offsets.join())).size !== count)
      throw this.#file.wrong(this.#where, `${count} chunks`, asIs(`${list.length}, or some twice`));
    return list;
  }

  async #join(): Promise<Uint8Array> {
    const { shape, size, width, chunk } = this.#chunking;
    this.#list ??= this.#stored();
    const list = await this.#list;
    const whole = product(chunk) * width;
    const stored = list.reduce((sum, { length }) => sum + length, 0);
    const most = this.#filters.includes(FILTER.deflate) ? inflated(stored) : stored;
    if (!(whole * list.length <= most))
      throw this.#file.wrong(this.#where, `at most ${most} bytes of ${stored} in the file`, whole * list.length);
    const bytes = new Uint8Array(size);
    for (const place of list) {
      const piece = await this.#decoded(place, whole);
      copyChunk(bytes, piece, { shape, chunk, width }, place.offsets);
    }
    return bytes;
  }

  async #decoded({ begin, length, skipped }: Stored, whole: number): Promise<Uint8Array> {
    const where = this.#where;
    let bytes = await this.#file.elements(where, begin, begin + length);
    for (const [i, filter] of [...this.#filters.entries()].reverse()) {
      if ((skipped >>> i) & 1) continue;
      if (filter === FILTER.fletcher32) bytes = bytes.subarray(0, Math.max(0, bytes.length - 4));
      else if (filter === FILTER.shuffle) bytes = unshuffled(bytes, this.#chunking.width);
      else {
        // a checksum may follow what is compressed
        const out = new Uint8Array(whole + 5);
        try {
          bytes = unzlibSync(bytes, { out });
        } catch (reason) {
          throw this.#file.wrong(where, "chunks of gzip", (reason as Error).message);
        }
      }
    }
    if (bytes.length !== whole) throw this.#file.wrong(where, `chunks of ${whole} bytes`, bytes.length);
    return bytes;
  }
}

/** Returns bytes whose first bytes of all elements lay together, as their second bytes and so on. */
function unshuffled(bytes: Uint8Array, width: number): Uint8Array {
  const count = Math.floor(bytes.length / width);
  const result = bytes.slice(); // bytes behind the last element stay
  for (let i = 0; i < count; i++)
    for (let k = 0; k < width; k++) result[i * width + k] = bytes[k * count + i] as number;
  return result;
}

/** Copies the part of a chunk that is inside the dataset, a run of its last axis at a time. */
function copyChunk(
  target: Uint8Array,
  piece: Uint8Array,
  { shape, chunk, width }: Pick<Chunking, "shape" | "chunk" | "width">,
  offsets: readonly number[],
): void {
  const inside = shape.map((size, i) => Math.min(chunk[i] as number, size - (offsets[i] as number)));
  const last = shape.length - 1;
  const run = (inside[last] as number) * width;
  const rows = product(inside.slice(0, last));
  for (let row = 0; row < rows; row++) {
    let [rest, from, to, fromStride, toStride] = [row, 0, 0, chunk[last] as number, shape[last] as number];
    for (let i = last - 1; i >= 0; i--) {
      const at = rest % (inside[i] as number);
      rest = Math.floor(rest / (inside[i] as number));
      from += at * fromStride;
      to += (at + (offsets[i] as number)) * toStride;
      fromStride *= chunk[i] as number;
      toStride *= shape[i] as number;
    }
    to += offsets[last] as number;
    target.set(piece.subarray(from * width, from * width + run), to * width);
  }
}

/**
 * Returns the groups and datasets of an HDF5 file, from the root on, each group before its objects, which have the order of the
 * file. Throws BatchNormError "model-file" for a file that breaks the format or has parts that are not read.
 */
export async function readHdf5(source: ByteSource): Promise<Hdf5Object[]> {
  const file = new Hdf5File(source);
  const objects: Hdf5Object[] = [];
  const open = [{ path: "", address: await file.root(), depth: 0 }];
  for (let next = open.pop(); next; next = open.pop()) {
    const { path, address, depth } = next;
    const where = path || "the root group";
    file.claim(where, path.length);
    if (depth > MAX_DEPTH) throw file.wrong(where, `at most ${MAX_DEPTH} groups inside each other`, depth);
    const messages = await file.messages(where, address);
    const attributes = new Map(
      messages
        .filter(({ type }) => type === MESSAGE.attribute)
        .map((message) => file.attributeOf(where, message))
        .map((attribute) => [attribute.name, attribute]),
    );
    const text = async (name: string) => attributes.get(name)?.text();
    const dataset = file.datasetOf(where, messages, (await text("dtype")) === "bfloat16");
    objects.push({ path, dataset, attributes: [...attributes.keys()], text });
    if (dataset) continue;
    const links = [...(await file.links(where, messages))].reverse();
    for (const [name, address] of links)
      open.push({ path: path ? `${path}/${name}` : name, address, depth: depth + 1 });
  }
  return objects;
}
