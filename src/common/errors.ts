// What goes wrong, said as name, expected, got, remedy. The only file that formats a message.
//
// TypeError for a wrong kind, RangeError for a wrong value, BatchNormError for what no single argument is to blame for.

export type BatchNormErrorCode =
  | "one-value-per-channel"
  | "non-finite-statistics"
  | "no-forward"
  | "no-running-statistics"
  | "in-place"
  | "disposed"
  | "other-memory"
  | "out-of-memory"
  | "state-dict"
  | "safetensors"
  | "no-simd"
  | "thread"
  | "group"
  | "mpi";

/**
 * An error of batch normalization itself; `code` tells which, and stays the same when the wording changes. `instanceof` knows
 * those of every copy of the package: a program may have one by import, one by require, and the ones in its sub-paths.
 */
export class BatchNormError extends Error {
  readonly code: BatchNormErrorCode;

  constructor(code: BatchNormErrorCode, message: string) {
    super(message);
    this.name = "BatchNormError";
    this.code = code;
  }

  static override [Symbol.hasInstance](value: unknown): boolean {
    return (value as Partial<Error> | null)?.name === "BatchNormError";
  }
}

type Shape = readonly number[];

/** More of a list or a string than this says nothing more. */
const ITEMS = 8;
const CHARACTERS = 60;

const some = (list: readonly unknown[], separator: string, item: (value: unknown) => string) =>
  list.slice(0, ITEMS).map(item).join(separator) + (list.length > ITEMS ? `${separator}… (${list.length} in all)` : "");

const dims = (shape: Shape) => some(shape, "×", String);

function show(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > CHARACTERS ? `${value.slice(0, CHARACTERS)}…` : value);
  if (typeof value === "function") return "a function";
  if (Array.isArray(value)) return `[${some(value, ", ", show)}]`;
  if (typeof value !== "object" || value === null) return String(value);
  const kind = value.constructor?.name ?? "Object";
  return ArrayBuffer.isView(value) && "length" in value ? `${kind}(${value.length})` : kind;
}

export const wrongKind = (name: string, expected: string, got: unknown) =>
  new TypeError(`${name}: expected ${expected}, got ${show(got)}`);

export const wrongValue = (name: string, expected: string, got: unknown) =>
  new RangeError(`${name}: expected ${expected}, got ${show(got)}`);

export const wrongLength = (name: string, shape: Shape, got: number) =>
  new RangeError(`${name}: expected ${shape.reduce((a, b) => a * b, 1)} elements (${dims(shape)}), got ${got}`);

export const wrongChannels = (name: string, channels: number, axis: number, shape: Shape, layout: string) =>
  new RangeError(
    `${name}: expected ${channels} channels on axis ${axis} (layout ${show(layout)}), got ${shape[axis]} in ${dims(shape)}; ` +
      `pass the other layout or construct with ${shape[axis]} channels`,
  );

export const wrongShape = (name: string, expected: Shape, got: Shape) =>
  new RangeError(`${name}: expected shape ${dims(expected)}, got ${dims(got)}`);

export const tooLarge = (name: string, shape: Shape, bytes: number, limit: number) =>
  new RangeError(
    `${name}: expected at most ${limit} bytes (WebAssembly's memory ends at 4 GiB), got ${dims(shape)} = ${bytes} bytes; ` +
      "split the batch",
  );

export const unknownOption = (where: string, name: string, known: readonly string[]) =>
  new TypeError(`${where}: expected options among ${known.join(", ")}, got ${show(name)}`);

export const exclusiveOptions = (a: string, b: string) =>
  new TypeError(`${a}: expected without ${b}, got both; ${a} weighs the new batch, ${b} the old value, so give one`);

export const maskWithSamples = () =>
  new TypeError(
    "mask: expected gamma and beta of one value per channel with it, got one per sample; mask without them",
  );

export const exclusiveStatistics = (name: string) =>
  new TypeError(`${name}: expected without statistics that are given, got both; leave one of them out`);

export const absentParameter = (name: string, option: string) =>
  new TypeError(`${name}: expected a layer that has it, got one made with ${option}; make it without that option`);

/** `where` tells which part of the batch has no more. */
export const oneValuePerChannel = (mode: string, shape: Shape, where = "") =>
  new BatchNormError(
    "one-value-per-channel",
    `Expected more than 1 value per channel when training, got input size ${dims(shape)} in mode ${show(mode)}${where}: ` +
      'the variance of one value is 0 and says nothing; pass a larger batch, or use mode "eval" or "frozen" with running statistics',
  );

/** For the statistics of samples by themselves: instance norm, and group norm otherwise. */
export const oneValuePerGroup = (instance: boolean, shape: Shape) =>
  new BatchNormError(
    "one-value-per-channel",
    `Expected more than 1 ${instance ? "spatial element" : "value per group"} when training, got input size ${dims(shape)}: ` +
      `the variance of one value is 0 and says nothing; pass ${instance ? "more positions" : "fewer groups"}, or use layerNormForward`,
  );

/** `remedy` beside looking at the input. */
export const nonFinite = (
  channel: number,
  mean: number,
  variance: number,
  name = "running statistics",
  remedy = ', or set onNonFinite to "skip" or "allow"',
) =>
  new BatchNormError(
    "non-finite-statistics",
    `${name}: expected a finite batch mean and variance, got mean ${mean} and variance ${variance} in channel ` +
      `${channel}; nothing was updated. Look for NaN or Infinity in the input${remedy}`,
  );

export const noForward = (what: string) =>
  new BatchNormError("no-forward", `backward: expected a forward call before it, got ${what}; call forward first`);

export const noRunningStatistics = (mode: string) =>
  new BatchNormError(
    "no-running-statistics",
    `mode ${show(mode)}: expected running statistics, got a layer made with trackRunningStats: false; use "train" or "batch"`,
  );

export const noStatisticsToFold = () =>
  new BatchNormError(
    "no-running-statistics",
    "bn: expected running statistics, got a layer made with trackRunningStats: false; only they are the same for every " +
      "batch, so make it without that option",
  );

export const wrongOutputs = (channels: number, got: number, shape: Shape, format: string, groups: number) =>
  new RangeError(
    `weight: expected ${channels} outputs, the channels of bn, got ${got} in ${dims(shape)} (format ${show(format)}, ` +
      `groups ${groups}); pass the format that names the weight's axes, and groups with "IOHW"`,
  );

/** `mode` where it is the mode that needs the memory; absent where two arrays overlap only in part. */
export const inPlace = (name: string, source: string, mode?: string) =>
  new BatchNormError(
    "in-place",
    mode === undefined
      ? `${name}: expected memory of its own, or exactly the source's, got an array that overlaps it in part; pass another array`
      : `${name}: expected other memory than ${source} in mode ${show(mode)}, got ${source} itself, which backward needs; ` +
          `pass another tensor${name === "out" ? ', or use mode "eval"' : ", or dy itself"}`,
  );

export const sameOut = (name: string, other: string) =>
  new BatchNormError(
    "in-place",
    `${name}: expected other memory than ${other}, got memory that both would write; pass another tensor`,
  );

export const disposed = (name: string) =>
  new BatchNormError("disposed", `${name}: expected one that is alive, got one that was disposed; make a new one`);

export const otherMemory = (name: string) =>
  new BatchNormError(
    "other-memory",
    `${name}: expected a tensor in the memory of this call's other tensors, got one in another memory; copy its data`,
  );

export const outOfMemory = (bytes: number, used: number, limit: number) =>
  new BatchNormError(
    "out-of-memory",
    `memory: expected room for ${bytes} bytes, got ${used} of ${limit} bytes in use and no more; ` +
      "dispose tensors no longer needed, or split the batch",
  );

/** `prefixes` are those of other layers in the state; one of them may have been meant. */
export const wrongState = (complaints: readonly string[], prefixes: readonly string[]) =>
  new BatchNormError(
    "state-dict",
    `loadStateDict: nothing was loaded; ${complaints.join("; ")}` +
      (prefixes.length ? `. Pass the prefix of one layer, as in ${show(prefixes)}` : ""),
  );

export const malformedFile = (where: string, expected: string, got: unknown) =>
  new BatchNormError(
    "safetensors",
    `safetensors: ${where}: expected ${expected}, got ${show(got)}; nothing was read, the file is damaged or of another format`,
  );

export const noSimd = () =>
  new BatchNormError(
    "no-simd",
    "batchnorm-wasm: expected an engine with WebAssembly SIMD (Node 16.4, Chrome 91, Firefox 89, Safari 16.4 or newer), got one without",
  );

/** For what batchnorm-wasm/core leaves out, called from JavaScript; TypeScript refuses it earlier. */
export const notInCore = (what: string) =>
  new TypeError(
    `${what}: expected batchnorm-wasm, the complete entry, got batchnorm-wasm/core, which does not have it; import the other`,
  );

export const noBytes = () =>
  new BatchNormError(
    "thread",
    "threads: expected a host that compiles kernels for shared memory, got one that only takes modules compiled before; " +
      "call init without threads",
  );

export const threadNotStarted = (thread: number, why: string) =>
  new BatchNormError(
    "thread",
    `threads: expected thread ${thread} of the pool to start, got: ${why}; a page's content security policy must allow ` +
      "worker-src blob:, and an audio worklet has no workers; call init without threads there",
  );

export const threadDied = (thread: number, how: string) =>
  new BatchNormError(
    "thread",
    `thread ${thread} of the pool: expected it to do its share, got the end of it: ${how}; what the call wrote is incomplete. ` +
      "Call init({ threads }) for a new pool, or dispose() to go on with one thread",
  );

/** `what` tells how it was found out. */
export const lostRank = (rank: number, size: number, what: string) =>
  new BatchNormError(
    "group",
    `rank ${rank} of ${size}: expected every rank of the group to take part, got none of some: ${what}; ` +
      "the group is of no more use. Start all ranks anew, or give slow ones more time with timeoutMs",
  );

/** `failed` where it is known which. */
export const rankFailed = (failed: number | undefined, where: string) =>
  new BatchNormError(
    "group",
    `${where}: expected every rank of the group to succeed, got an error on ${failed === undefined ? "another rank" : `rank ${failed}`}, ` +
      "which says there what it is; nothing was changed here",
  );

/** `error` where there is one, which says more. */
export const noMpi = (what: string, remedy: string, error?: unknown) =>
  new BatchNormError(
    "mpi",
    `mpiGroup: expected ${what}, got none${error === undefined ? "" : `: ${error instanceof Error ? error.message : error}`}; ${remedy}`,
  );

export const NO_SHARED_MEMORY =
  "this page is not cross-origin isolated: serve it with Cross-Origin-Opener-Policy: same-origin and " +
  "Cross-Origin-Embedder-Policy: require-corp";

/** A warning, not an error: the results are the same, later. */
export const oneThreadWarning = () => `batchnorm-wasm: one thread, because ${NO_SHARED_MEMORY}`;

/** A hint, not an error: what a momentum above 0.5 most often means. */
export const momentumHint = (momentum: number) =>
  `batchnorm-wasm: momentum ${momentum} weighs the NEW batch, as in PyTorch. Keras, TF.js, ONNX and Flax weigh the old value: ` +
  `if ${momentum} comes from one of them, pass decay: ${momentum} instead.`;

/** A warning that is data: what folding a channel costs. */
export const foldCancels = (channel: number, ratio: number, error: number, remedy: string) =>
  `channel ${channel}: expected an input whose mean is within reach of its spread, got a mean of ${ratio.toPrecision(2)} × ` +
  `√(variance + epsilon), so that scale·x and shift cancel and y is off by ${error.toPrecision(2)} × (|gamma| + |beta|); ${remedy}`;

/** A warning that is data: what folding cannot represent. */
export const foldOverflows = (channel: number) =>
  `channel ${channel}: expected finite numbers, got NaN or an overflow in the folded ones; look at its statistics, gamma, ` +
  "beta and weights";
