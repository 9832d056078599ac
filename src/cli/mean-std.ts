// The command `mean-std`.

import type { Dirent } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { arrayBatches } from "../tools/array-batches.ts";
import { DATA_LAYOUTS, type DataBatch, type DataLayout } from "../tools/data-statistics.ts";
import { dataStatistics } from "../tools/index.ts";
import { meanStdText } from "../tools/report/mean-std.ts";
import { type ByteSource, readWhole } from "../tools/source.ts";
import { decodeImage } from "./decode-image.ts";
import { OpenFiles } from "./file-source.ts";
import { jsonText } from "./output.ts";
import { Progress } from "./progress.ts";
import { reasonOf, UsageError } from "./usage.ts";

const EXAMPLE = `
Example:
  $ npx batchnorm-wasm mean-std train/

Images are divided by 255, as ToTensor of torchvision does; arrays are taken as
they are. Every pixel counts the same, whatever the size of its image. Alpha is
ignored. std is the population's; --json also has the unbiased one.

The exit code is 0, 1 if NaN or infinity was left out, and 2 for wrong arguments
and for files that cannot be read.`;

interface MeanStdOptions {
  readonly rgb?: boolean;
  readonly divideBy?: number;
  readonly layout?: DataLayout;
  readonly tensor?: string;
  readonly json?: boolean;
}

const IMAGES = [".jpg", ".jpeg", ".png", ".webp"];
const ARRAYS = [".npy", ".safetensors"];
const kindOf = (path: string) => extname(path).toLowerCase();

/** The largest file of an image. It is a chosen value, far above what an image of readImageHeader's limit needs. */
const MAX_IMAGE_BYTES = 2 ** 30;

/** Adds the command to a program. `exit` takes the exit code. */
export function addMeanStd(program: Command, exit: (code: number) => void): void {
  program
    .command("mean-std")
    .summary("compute mean and standard deviation per channel of a data set")
    .description(
      "Computes the exact mean and standard deviation per channel of a data set: images (JPEG, PNG, WebP) or arrays (.npy, .safetensors).",
    )
    .argument("<path...>", "files, and folders, which are searched for images")
    .option("--rgb", "take grey images as three equal channels, as ImageFolder does")
    .option("--divide-by <number>", "divide all values (images: 255, arrays: 1)", positive)
    .addOption(new Option("--layout <layout>", "where arrays have their channels").choices(DATA_LAYOUTS))
    .option("--tensor <name>", "the tensor of safetensors files")
    .option("--json", "print the statistics as JSON")
    .addHelpText("after", EXAMPLE)
    .action(async (paths: string[], options: MeanStdOptions) => {
      const { files, notes } = await filesOf(paths);
      const isImages = !ARRAYS.includes(kindOf(files[0] as string));
      checkOptions(options, isImages);
      const divisor = options.divideBy ?? (isImages ? 255 : 1);
      const progress = new Progress(files.length, files.length === 1 ? "file" : "files");
      const observed = new Observed();
      try {
        const batches = isImages ? images(files, options, progress, observed) : arrays(files, options, progress);
        const statistics = await dataStatistics(batches, { layout: "channels-first", divisor });
        progress.stop();
        notes.push(...observed.notes());
        const scaled = divisor === 1 ? "" : `, values divided by ${divisor}`;
        const what = `${plural(files.length, isImages ? "image" : "file")}${scaled}`;
        const report = { files: files.length, divisor, ...statistics, notes };
        process.stdout.write(options.json ? jsonText(report) : meanStdText(statistics, what, notes));
        exit(statistics.nonFinite.some(Boolean) ? 1 : 0);
      } finally {
        progress.stop();
      }
    });
}

/** Throws UsageError for an option that the files have no use for. */
function checkOptions(options: MeanStdOptions, isImages: boolean): void {
  const names = isImages ? (["layout", "tensor"] as const) : (["rgb"] as const);
  const [expected, got] = isImages ? ["arrays", "images"] : ["images", "arrays"];
  for (const name of names)
    if (options[name] !== undefined) throw new UsageError(`--${name}: expected ${expected}, got ${got}; leave it out`);
}

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value < Infinity)) throw new InvalidArgumentError("Expected a finite number above 0.");
  return value;
}

const plural = (n: number, word: string) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

/** Returns the files of paths, folders searched, and notes on those that are left out. Throws UsageError if there is none. */
async function filesOf(paths: readonly string[]): Promise<{ files: string[]; notes: string[] }> {
  const files: string[] = [];
  const others = new Map<string, number>();
  for (const path of paths) {
    const found = await entriesOf(path);
    if (!found) files.push(path);
    for (const entry of found ?? []) {
      const file = join(entry.parentPath, entry.name);
      if (IMAGES.includes(kindOf(file))) files.push(file);
      else {
        const kind = kindOf(file) || "without an extension";
        others.set(kind, (others.get(kind) ?? 0) + 1);
      }
    }
  }
  if (files.length === 0)
    throw new UsageError(`${paths.join(", ")}: expected images (${IMAGES.join(", ")}), got none; name another folder`);
  const array = files.find((file) => ARRAYS.includes(kindOf(file)));
  const image = files.find((file) => !ARRAYS.includes(kindOf(file)));
  if (array && image)
    throw new UsageError(`${array}: expected images only, as ${image}, or arrays only, got both; call it for each`);
  const left = [...others].map(([kind, count]) => `${count} ${kind}`).join(", ");
  return { files, notes: left ? [`Other files in the folders were left out: ${left}.`] : [] };
}

/** Returns the files in a folder and in folders inside it, sorted; undefined for what is no folder. */
async function entriesOf(path: string): Promise<Dirent[] | undefined> {
  const isFolder = await stat(path).then(
    (stats) => stats.isDirectory(),
    () => false, // a file that is not there is reported when it is opened
  );
  if (!isFolder) return undefined;
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch((error: Error) => {
    throw new UsageError(`${path}: expected a folder that can be read, got: ${reasonOf(error)}; look at its rights`);
  });
  const order = ({ parentPath, name }: Dirent) => join(parentPath, name);
  return entries
    .filter((entry) => entry.isFile() || entry.isSymbolicLink())
    .sort((a, b) => (order(a) < order(b) ? -1 : 1));
}

/** Calls `use` with each file in turn, open. */
async function* each<T>(
  files: readonly string[],
  progress: Progress,
  use: (source: ByteSource, path: string, index: number) => AsyncGenerator<T>,
): AsyncGenerator<T> {
  for (const [index, path] of files.entries()) {
    const open = new OpenFiles();
    try {
      yield* use({ ...(await open.open(path)), name: path }, path, index);
    } finally {
      await open.close();
    }
    progress.update(index + 1);
  }
}

/** What was seen in images that their statistics do not show. */
class Observed {
  #alpha = 0;
  readonly #warned: string[] = [];

  add(path: string, hasAlpha: boolean, warnings: readonly string[]): void {
    if (hasAlpha) this.#alpha++;
    if (warnings.length) this.#warned.push(`${path}: ${warnings.join(", ")}`);
  }

  notes(): string[] {
    const [first] = this.#warned;
    return [
      ...(this.#alpha ? [`Alpha was ignored in ${plural(this.#alpha, "image")}.`] : []),
      ...(first ? [`The decoder complained of ${plural(this.#warned.length, "image")}, first of ${first}.`] : []),
    ];
  }
}

function images(files: readonly string[], { rgb = false }: MeanStdOptions, progress: Progress, observed: Observed) {
  let first: { path: string; channels: number } | undefined;
  return each<DataBatch>(files, progress, async function* (source, path) {
    const bytes = (await readWhole(source, MAX_IMAGE_BYTES)) as Uint8Array<ArrayBuffer>;
    const { batch, channels, hasAlpha, warnings } = await decodeImage(path, bytes, rgb);
    first ??= { path, channels };
    if (channels !== first.channels)
      throw new UsageError(
        `${path}: expected ${plural(first.channels, "channel")}, as ${first.path} has, got ${channels}; ` +
          "pass --rgb to take grey images as three equal channels",
      );
    observed.add(path, hasAlpha, warnings);
    yield batch;
  });
}

async function* arrays(files: readonly string[], { layout, tensor }: MeanStdOptions, progress: Progress) {
  let first: { path: string; channels: number } | undefined;
  const options = { ...(layout && { layout }), ...(tensor !== undefined && { tensor }) };
  yield* each<DataBatch>(files, progress, async function* (source, path, index) {
    let read = 0;
    for await (const batch of arrayBatches(source, options)) {
      const channels = batch.shape[1] as number;
      first ??= { path, channels };
      if (channels !== first.channels)
        throw new UsageError(`${path}: expected ${first.channels} channels, as ${first.path} has, got ${channels}`);
      yield batch;
      read += batch.data.byteLength;
      progress.update(index + read / source.size);
    }
  });
  if (!first) throw new UsageError(`${files.join(", ")}: expected at least one value, got none`);
}
