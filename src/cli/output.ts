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

/**
 * Writes a file: to a temporary one in the same folder first, which takes its name when it is complete. Throws UsageError if
 * the file must not be written (checkOutput), also if it appeared since an earlier check. Errors of the `content` that are
 * BatchNormErrors stay as they are, and no file is left then.
 */
export async function writeOutput(
  path: string,
  content: string | Uint8Array | AsyncIterable<Uint8Array>,
  force: boolean,
  inputs: readonly string[],
): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString("hex")}.tmp`);
  try {
    await writeFile(temporary, content, { flag: "wx" });
    checkOutput(path, force, inputs);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    if (error instanceof UsageError || error instanceof BatchNormError) throw error;
    throw new UsageError(
      `${path}: expected a file that can be written, got: ${(error as Error).message}; name another`,
    );
  }
}
