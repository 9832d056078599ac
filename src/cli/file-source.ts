// Files of Node as sources of bytes.

import { type FileHandle, open, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { asIs, BatchNormError, wrongFile } from "../common/errors.ts";
import { type ByteSource, siblingPath } from "../tools/source.ts";
import type { Progress } from "./progress.ts";
import { reasonOf } from "./usage.ts";

/**
 * The most bytes that are read at once: often enough for a bar of progress, and below 2³¹, from which on a read ends the process
 * with a failed assertion of Node 20.
 */
const PIECE = 2 ** 26;

/** Files that stay open until the command has ended. */
export class OpenFiles {
  readonly #files = new Map<string, Promise<ByteSource>>();
  readonly #handles: FileHandle[] = [];
  readonly #progress: Progress | undefined;
  /** The size of all files, and how far they have been read, added up. */
  #size = 0;
  #read = 0;

  /** `progress` gets how far the files have been read, in bytes. */
  constructor(progress?: Progress) {
    this.#progress = progress;
  }

  /** The paths of all files that have been opened, of which no output may take the place. */
  get paths(): readonly string[] {
    return [...this.#files.keys()];
  }

  /** Opens a file for reading. Throws BatchNormError "model-file" if there is none. */
  open(path: string): Promise<ByteSource> {
    return this.#once(path, dirname(path), path);
  }

  /** Opens a file, or returns it if it is open: a model may name one file for each of its tensors. */
  #once(path: string, folder: string, name: string): Promise<ByteSource> {
    const source = this.#files.get(path) ?? this.#open(path, folder, name);
    this.#files.set(path, source);
    return source;
  }

  async #open(path: string, folder: string, name: string): Promise<ByteSource> {
    const refused = (got: string, remedy: string) =>
      wrongFile(name, "the file", "one that can be read", asIs(got), remedy);
    let handle: FileHandle;
    let size: number;
    try {
      // before it is opened, since opening a pipe waits for its writer
      const stats = await stat(path);
      if (stats.isDirectory()) throw refused("a folder", "name a file inside it");
      if (!stats.isFile()) throw refused("a pipe or a device", "write its bytes to a file first");
      handle = await open(path);
      ({ size } = stats);
    } catch (error) {
      throw error instanceof BatchNormError ? error : refused(reasonOf(error), "look at its path and its rights");
    }
    this.#handles.push(handle);
    this.#size += size;
    let furthest = 0;
    return {
      name: basename(name),
      size,
      read: async (begin, end) => {
        const bytes = new Uint8Array(end - begin);
        let length = 0;
        while (length < bytes.length) {
          const most = Math.min(PIECE, bytes.length - length);
          const { bytesRead } = await handle.read(bytes, length, most, begin + length);
          if (bytesRead === 0) break; // the file has become shorter, which the caller notices by the length
          length += bytesRead;
          this.#read += Math.max(0, begin + length - furthest);
          furthest = Math.max(furthest, begin + length);
          this.#progress?.update(this.#read, this.#size);
        }
        return bytes.subarray(0, length);
      },
      sibling: (other) => {
        const inside = siblingPath(name, other);
        return this.#once(join(folder, inside), folder, inside);
      },
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.#handles.splice(0).map((handle) => handle.close()));
  }
}
