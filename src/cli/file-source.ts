// Files of Node as sources of bytes.

import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { wrongFile } from "../common/errors.ts";
import { type ByteSource, siblingPath } from "../tools/source.ts";

/** Files that stay open until the command has ended. */
export class OpenFiles {
  readonly #handles: FileHandle[] = [];
  readonly #paths: string[] = [];

  /** The paths of all files that have been opened, of which no output may take the place. */
  get paths(): readonly string[] {
    return this.#paths;
  }

  /** Opens a file for reading. Throws BatchNormError "model-file" if there is none. */
  open(path: string): Promise<ByteSource> {
    return this.#open(path, dirname(path), path);
  }

  async #open(path: string, folder: string, name: string): Promise<ByteSource> {
    let handle: FileHandle;
    try {
      handle = await open(path);
    } catch (error) {
      throw wrongFile(name, "the file", "one that can be read", (error as Error).message, "look at its path");
    }
    this.#handles.push(handle);
    this.#paths.push(path);
    const stat = await handle.stat();
    if (!stat.isFile()) throw wrongFile(name, "the file", "a file", "a folder or a device", "name a file inside it");
    return {
      name: basename(name),
      size: stat.size,
      async read(begin, end) {
        const bytes = new Uint8Array(end - begin);
        let length = 0;
        while (length < bytes.length) {
          const { bytesRead } = await handle.read(bytes, length, bytes.length - length, begin + length);
          if (bytesRead === 0) break; // the file has become shorter, which the caller notices by the length
          length += bytesRead;
        }
        return bytes.subarray(0, length);
      },
      sibling: (other) => {
        const inside = siblingPath(name, other);
        return this.#open(join(folder, inside), folder, inside);
      },
    };
  }

  async close(): Promise<void> {
    await Promise.all(this.#handles.splice(0).map((handle) => handle.close()));
  }
}
