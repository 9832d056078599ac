// Files of a zip archive as sources of bytes. Those that are stored without compression, as Keras stores them, are read by
// range. Source: PKWARE's APPNOTE.TXT 6.3.10, whose section numbers are given below.

import { inflateSync } from "fflate";
import { asIs, wrongFile } from "../../../common/errors.ts";
import { type ByteSource, bytesSource, readRange } from "../../source.ts";
import { inflated } from "./inflate.ts";

/** The first bytes of an archive that has files. */
export const SIGNATURE = "PK\x03\x04";

/** Bytes of the record at the end (4.3.16), of a comment behind it at most, and of what a large archive has before it. */
const [END, COMMENT, LOCATOR] = [22, 0xffff, 20];
/** Bytes of an entry of the directory and of a file's own header, without names (4.3.12, 4.3.7). */
const [ENTRY, HEADER] = [46, 30];
/** What stands in a field of 32 bits whose value has another place. */
const ELSEWHERE = 0xffffffff;
const METHOD = { stored: 0, deflated: 8 } as const;

const END_SIGNATURE = 0x06054b50;
const LOCATOR_SIGNATURE = 0x07064b50;
const LARGE_END_SIGNATURE = 0x06064b50;
const ENTRY_SIGNATURE = 0x02014b50;
const HEADER_SIGNATURE = 0x04034b50;

const viewOf = ({ buffer, byteOffset, byteLength }: Uint8Array) => new DataView(buffer, byteOffset, byteLength);

/** A file of an archive, by what the directory says of it. */
interface Entry {
  readonly method: number;
  readonly isEncrypted: boolean;
  readonly packed: number;
  readonly size: number;
  readonly header: number;
}

/** Returns where the directory lies (4.3.16, 4.3.14). */
async function directoryOf(source: ByteSource): Promise<readonly [begin: number, end: number]> {
  const { name, size } = source;
  const where = "the end of the archive";
  const start = Math.max(0, size - END - COMMENT - LOCATOR);
  const tail = viewOf(await readRange(source, where, start, size));
  let at = tail.byteLength - END;
  while (at >= 0 && tail.getUint32(at, true) !== END_SIGNATURE) at--;
  if (at < 0)
    throw wrongFile(name, where, "the record of a zip archive", asIs("none"), "the file is cut off or damaged");
  const [length, begin] = [tail.getUint32(at + 12, true), tail.getUint32(at + 16, true)];
  const locator = at - LOCATOR;
  if (locator < 0 || tail.getUint32(locator, true) !== LOCATOR_SIGNATURE) return [begin, begin + length];
  const place = Number(tail.getBigUint64(locator + 8, true));
  const large = viewOf(await readRange(source, where, place, place + 56));
  if (large.getUint32(0, true) !== LARGE_END_SIGNATURE)
    throw wrongFile(name, where, "the record of a large archive", asIs("something else"));
  const first = Number(large.getBigUint64(48, true));
  return [first, first + Number(large.getBigUint64(40, true))];
}

/** Returns the sizes and the place of an entry of more than 4 GiB, from its extra fields (4.5.3). */
function largeFields(extra: DataView, fields: readonly number[]): number[] | undefined {
  for (let at = 0; at + 4 <= extra.byteLength; at += 4 + extra.getUint16(at + 2, true)) {
    if (extra.getUint16(at, true) !== 1) continue;
    let next = at + 4;
    const end = Math.min(extra.byteLength, next + extra.getUint16(at + 2, true));
    return fields.map((field) => {
      if (field !== ELSEWHERE || next + 8 > end) return field;
      next += 8;
      return Number(extra.getBigUint64(next - 8, true));
    });
  }
  return undefined;
}

/** Returns the entries of the directory by name (4.3.12). */
async function entriesOf(source: ByteSource): Promise<Map<string, Entry>> {
  const where = "the directory of the archive";
  const bytes = await readRange(source, where, ...(await directoryOf(source)));
  const view = viewOf(bytes);
  const entries = new Map<string, Entry>();
  let at = 0;
  while (at + ENTRY <= bytes.length && view.getUint32(at, true) === ENTRY_SIGNATURE) {
    const length = (offset: number) => view.getUint16(at + offset, true);
    const names = at + ENTRY;
    const extras = names + length(28);
    const next = extras + length(30) + length(32);
    if (next > bytes.length) throw wrongFile(source.name, where, `${next} bytes`, bytes.length);
    const fields = [24, 20, 42].map((offset) => view.getUint32(at + offset, true));
    const extra = new DataView(bytes.buffer, bytes.byteOffset + extras, length(30));
    const [size = 0, packed = 0, header = 0] = largeFields(extra, fields) ?? fields;
    const name = new TextDecoder().decode(bytes.subarray(names, extras));
    entries.set(name, { method: length(10), isEncrypted: (length(8) & 1) === 1, packed, size, header });
    at = next;
  }
  return entries;
}

/** A zip archive whose directory has been read. */
export interface Archive {
  readonly names: readonly string[];
  /**
   * Returns a file of the archive. Throws BatchNormError "model-file" if there is none of this name, and for one whose size
   * cannot be right or that is compressed in an unknown way.
   */
  file(name: string): Promise<ByteSource>;
}

/** Opens an archive. Throws BatchNormError "model-file" for a file that is none. */
export async function openZip(source: ByteSource): Promise<Archive> {
  const entries = await entriesOf(source);
  const file = async (name: string): Promise<ByteSource> => {
    const wrong = (expected: string, got: unknown, remedy?: string) =>
      wrongFile(source.name, name, expected, got, remedy);
    const entry = entries.get(name);
    if (!entry) throw wrong("a file of the archive", asIs("none"));
    const { method, isEncrypted, packed, size, header } = entry;
    if (isEncrypted) throw wrong("a file without a password", asIs("an encrypted one"), "unpack it and zip it without");
    const head = viewOf(await readRange(source, name, header, header + HEADER));
    if (head.getUint32(0, true) !== HEADER_SIGNATURE) throw wrong("the header of a file", asIs("something else"));
    const begin = header + HEADER + head.getUint16(26, true) + head.getUint16(28, true);
    const end = begin + packed;
    if (!(end <= source.size)) throw wrong(`${packed} bytes inside the archive`, asIs(`the end at ${end}`));
    const inside = `${source.name}: ${name}`;
    if (method === METHOD.stored) {
      if (size !== packed) throw wrong(`${packed} bytes`, size);
      return {
        name: inside,
        size,
        read: (from, to) => source.read(begin + from, begin + to),
        sibling: (path) => source.sibling(path),
      };
    }
    if (method !== METHOD.deflated)
      throw wrong("a file that is stored or deflated", asIs(`the method ${method}`), "zip it by another program");
    const most = inflated(packed);
    if (size > most) throw wrong(`at most ${most} bytes of ${packed} that are compressed`, size);
    const bytes = await readRange(source, name, begin, end);
    try {
      // one byte more shows that there would be more
      const whole = inflateSync(bytes, { out: new Uint8Array(size + 1) });
      if (whole.length === size) return bytesSource(inside, whole);
    } catch (reason) {
      throw wrong("data of deflate", (reason as Error).message);
    }
    throw wrong(`${size} bytes, as the directory says`, asIs("more or fewer"));
  };
  return { names: [...entries.keys()], file };
}
