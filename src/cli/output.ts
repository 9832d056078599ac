// Writing of output files: never over another file unless that is asked for, and whole or not at all.

import { randomBytes } from "node:crypto";
import { existsSync, realpathSync } from "node:fs";
import { rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { BatchNormError } from "../common/errors.ts";
import { UsageError } from "./usage.ts";

/** Throws UsageError if a file must not be written: it exists and `force` is false, or it is one of the `inputs`. */
export function checkOutput(path: string, force: boolean, inputs: readonly string[]): void {
  if (!existsSync(dirname(path))) throw new UsageError(`${path}: expected an existing folder, got none; make it first`);
  if (!existsSync(path)) return;
  const real = realpathSync(path);
  if (inputs.some((input) => existsSync(input) && realpathSync(input) === real))
    throw new UsageError(`${path}: expected another file than the input; name another`);
  if (!force) throw new UsageError(`${path}: expected a new file, got one that exists; name another, or pass --force`);
}

/** What is written into a file. */
export type Content = string | Uint8Array | AsyncIterable<Uint8Array>;

/** Writes a file as writeOutputs writes several. */
export const writeOutput = (path: string, content: Content, force: boolean, inputs: readonly string[]) =>
  writeOutputs(new Map([[path, content]]), force, inputs);

/**
 * Writes files by their paths, all or none: to temporary ones in the same folders first, which take their names when all are
 * complete. Throws UsageError if a file must not be written (checkOutput), also if it appeared since an earlier check. Errors
 * of the contents that are BatchNormErrors stay as they are, and no file is left then.
 */
export async function writeOutputs(
  contents: ReadonlyMap<string, Content>,
  force: boolean,
  inputs: readonly string[],
): Promise<void> {
  const temporaries = new Map(
    [...contents.keys()].map((path) => [
      path,
      join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.tmp`),
    ]),
  );
  let current = "";
  try {
    for (const [path, content] of contents) {
      current = path;
      await writeFile(temporaries.get(path) as string, content, { flag: "wx" });
    }
    for (const path of contents.keys()) checkOutput(path, force, inputs);
    for (const [path, temporary] of temporaries) {
      current = path;
      await rename(temporary, path);
    }
  } catch (error) {
    for (const temporary of temporaries.values()) await rm(temporary, { force: true });
    if (error instanceof UsageError || error instanceof BatchNormError) throw error;
    throw new UsageError(
      `${current}: expected a file that can be written, got: ${(error as Error).message}; name another`,
    );
  }
}
