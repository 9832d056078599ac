// Random access to the bytes of a model file, and of the files beside it that it names: shards and external data. Readers
// see only this interface, so that they run on files of Node, on Files of a browser and on bytes in memory.

import { asIs, wrongFile } from "../common/errors.ts";

/** The bytes of a file, of which any range can be read, and the files beside it. */
export interface ByteSource {
  /** The name of the file, for error messages. */
  readonly name: string;
  /** The size of the file in bytes. */
  readonly size: number;
  /** Returns the bytes from `begin` up to, not including, `end`. Callers stay within the size. */
  read(begin: number, end: number): Promise<Uint8Array>;
  /**
   * Returns the file with a path relative to the folder of the model file. It refuses a path that leads elsewhere
   * (siblingPath), and throws BatchNormError "model-file" for a file that is not there.
   */
  sibling(path: string): Promise<ByteSource>;
}

/** The methods of a Blob or File that are used here, since a program's TypeScript library may lack these types. */
export interface BlobLike {
  /** The size in bytes. */
  readonly size: number;
  /** The name of the file, if it is one. */
  readonly name?: string;
  /** Returns the part from byte `begin` up to, not including, `end`. */
  slice(begin: number, end: number): { arrayBuffer(): Promise<ArrayBuffer> };
}

/**
 * Returns the path of a file beside the model file `from`, with "/" between folders and without empty or "." parts. Throws
 * BatchNormError "model-file" for an absolute path, a URL, and a path with "..": a model file may name only files of its
 * own folder and of folders inside it.
 */
export function siblingPath(from: string, path: unknown): string {
  const parts = typeof path === "string" ? path.split("/").filter((part) => part !== "" && part !== ".") : [];
  // a backslash or a colon would be a folder, a drive or a URL on some system
  const isInside = parts.length > 0 && !/^\/|[\\:\0]/.test(path as string) && !parts.includes("..");
  if (!isInside)
    throw wrongFile(from, "the path of another file", "one relative to the model's folder, inside it", path);
  return parts.join("/");
}

/** Returns a source of files that are all at hand, by their paths relative to the model's folder. */
function sourceAmong<T>(
  name: string,
  files: ReadonlyMap<string, T>,
  file: T,
  sizeOf: (file: T) => number,
  read: (file: T, begin: number, end: number) => Promise<Uint8Array>,
): ByteSource {
  return {
    name,
    size: sizeOf(file),
    read: (begin, end) => read(file, begin, end),
    async sibling(path) {
      const inside = siblingPath(name, path);
      const other = files.get(inside);
      if (other === undefined)
        throw wrongFile(name, `the file ${inside} beside it`, "a file", asIs("none"), "pass it with the model");
      return sourceAmong(inside, files, other, sizeOf, read);
    },
  };
}

/**
 * Returns a source of bytes in memory. `siblings` holds the other files of the model by their paths relative to its
 * folder.
 */
export function bytesSource(
  name: string,
  bytes: Uint8Array,
  siblings: Readonly<Record<string, Uint8Array>> = {},
): ByteSource {
  return sourceAmong(
    name,
    new Map(Object.entries(siblings)),
    bytes,
    ({ length }) => length,
    async (file, begin, end) => file.subarray(begin, end),
  );
}

/**
 * Returns a source of a Blob, or of a File such as those of `<input type="file" multiple>`, of which only the ranges are
 * read that are needed. `siblings` are the other files of the model, in one folder with it.
 */
export function blobSource(file: BlobLike, siblings: readonly BlobLike[] = []): ByteSource {
  return sourceAmong(
    file.name ?? "model",
    new Map(siblings.map((other) => [other.name ?? "", other])),
    file,
    ({ size }) => size,
    async (blob, begin, end) => new Uint8Array(await blob.slice(begin, end).arrayBuffer()),
  );
}

/**
 * Returns the bytes of a range. Throws BatchNormError "model-file", naming the file and `where`, for a range that is not
 * inside the file, before anything is allocated.
 */
export async function readRange(source: ByteSource, where: string, begin: number, end: number): Promise<Uint8Array> {
  const { name, size } = source;
  if (!(Number.isSafeInteger(begin) && Number.isSafeInteger(end) && begin >= 0 && begin <= end && end <= size))
    throw wrongFile(name, where, `a range inside the file's ${size} bytes`, asIs(`bytes ${begin} to ${end}`));
  const bytes = await source.read(begin, end);
  if (bytes.length !== end - begin) throw wrongFile(name, where, `${end - begin} bytes`, bytes.length);
  return bytes;
}

/** Returns all bytes of a file of at most `most` bytes. Throws BatchNormError "model-file" for a larger one. */
export async function readWhole(source: ByteSource, most: number): Promise<Uint8Array> {
  if (source.size > most) throw wrongFile(source.name, "the file", `at most ${most} bytes`, source.size);
  return readRange(source, "the file", 0, source.size);
}

/** The largest JSON file that is read. It is a chosen value: topologies have up to some ten megabytes. */
const MAX_JSON = 2 ** 28;

/** Returns the content of a JSON file. Throws BatchNormError "model-file" for one that is not JSON in UTF-8. */
export async function readJson(source: ByteSource): Promise<unknown> {
  const bytes = await readWhole(source, MAX_JSON);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (reason) {
    throw wrongFile(source.name, "the file", "JSON", (reason as Error).message);
  }
}
