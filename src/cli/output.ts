// Writing of output files: never over another file unless that is asked for, and whole or not at all.

import { randomBytes } from "node:crypto";
import { existsSync, lstatSync, realpathSync, rmSync, statSync } from "node:fs";
import { open, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { BatchNormError } from "../common/errors.ts";
import { CONTROLS, escaped } from "../tools/report/text.ts";
import { reasonOf, UsageError } from "./usage.ts";

/**
 * Throws UsageError if a file must not be written: it exists and `force` is false, it is one of the `inputs`, or there is
 * something else than a file.
 */
export function checkOutput(path: string, force: boolean, inputs: readonly string[]): void {
  try {
    checkDestination(path, force, inputs);
  } catch (error) {
    throw error instanceof UsageError ? error : notWritable(path, error);
  }
}

/** Returns the UsageError for an error of the file system. */
const notWritable = (path: string, error: unknown) =>
  new UsageError(`${path}: expected a file that can be written, got: ${reasonOf(error)}; name another`);

function checkDestination(path: string, force: boolean, inputs: readonly string[]): void {
  const refused = (expected: string, got: string, remedy = "name another") =>
    new UsageError(`${path}: expected ${expected}, got ${got}; ${remedy}`);
  const folder = statSync(dirname(path), { throwIfNoEntry: false });
  if (!folder) throw refused("an existing folder", "none", "make it first");
  if (!folder.isDirectory()) throw refused("an existing folder", "a file");
  if (!lstatSync(path, { throwIfNoEntry: false })) return;
  const target = statSync(path, { throwIfNoEntry: false });
  if (!target) throw refused("a file", "a link to one that does not exist");
  // a rename would put a file in the place of a device, such as /dev/null
  if (!target.isFile()) throw refused("a file", target.isDirectory() ? "a folder" : "a pipe or a device");
  const real = realpathSync(path);
  if (inputs.some((input) => existsSync(input) && realpathSync(input) === real))
    throw new UsageError(`${path}: expected another file than the input; name another`);
  if (!force) throw refused("a new file", "one that exists", "name another, or pass --force");
}

/** What is written into a file. */
export type Content = string | Uint8Array | AsyncIterable<Uint8Array>;

/** Writes a file as writeOutputs writes several. */
export const writeOutput = (path: string, content: Content, force: boolean, inputs: readonly string[]) =>
  writeOutputs(new Map([[path, content]]), force, inputs);

/** Signals that end the process. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * Writes files by their paths, all or none: to temporary ones in the same folders first, which take their names when all are
 * complete. A file that is overwritten keeps its mode, and a link to it stays a link. Throws UsageError if a file must not be
 * written (checkOutput), also if it appeared since an earlier check. Errors of the contents that are BatchNormErrors stay as
 * they are. No file is left then, and none if a signal ends the process.
 */
export async function writeOutputs(
  contents: ReadonlyMap<string, Content>,
  force: boolean,
  inputs: readonly string[],
): Promise<void> {
  /** The temporary files by the paths whose place they take. */
  const temporaries = new Map<string, string>();
  const onSignal = (signal: NodeJS.Signals) => {
    for (const temporary of temporaries.values()) rmSync(temporary, { force: true });
    process.kill(process.pid, signal); // which has no listener any more, and so ends the process
  };
  for (const signal of SIGNALS) process.once(signal, onSignal);
  let current = "";
  try {
    for (const [path, content] of contents) {
      current = path;
      const { real, mode } = destination(path);
      // a short name, since that of the file may be the longest that there is
      const temporary = join(dirname(real), `.batchnorm-wasm-${randomBytes(6).toString("hex")}.tmp`);
      const handle = await open(temporary, "wx", mode);
      temporaries.set(real, temporary);
      try {
        await writeFile(handle, content);
      } finally {
        await handle.close();
      }
    }
    for (const path of contents.keys()) checkOutput(path, force, inputs);
    for (const [real, temporary] of temporaries) {
      current = real;
      await rename(temporary, real);
      temporaries.delete(real);
    }
  } catch (error) {
    for (const temporary of temporaries.values()) await rm(temporary, { force: true });
    if (error instanceof UsageError || error instanceof BatchNormError) throw error;
    throw notWritable(current, error);
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}

/** Returns the path that a path leads to through links, and the mode of a file that is there. */
function destination(path: string) {
  const file = statSync(path, { throwIfNoEntry: false });
  return file ? { real: realpathSync(path), mode: file.mode & 0o777 } : { real: path, mode: 0o666 };
}

/** Returns a report as JSON, in which all characters that a terminal obeys are escapes. */
export const jsonText = (report: unknown): string =>
  `${JSON.stringify(report, null, 2).replace(CONTROLS, (character) => (character === "\n" ? character : escaped(character)))}\n`;
