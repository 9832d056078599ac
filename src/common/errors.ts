// All errors and warnings. This is the only file that formats a message: a name, what was expected, what came, and a
// remedy.
//
// A wrong kind is a TypeError, a wrong value is a RangeError. Where no single argument is at fault, the error is a
// BatchNormError.

/**
 * The codes of BatchNormError. A code stays the same when the wording of its message changes. docs/guides/troubleshooting.md
 * is made from the comments of the codes (`npm run docs:troubleshooting`).
 */
export type BatchNormErrorCode =
  /**
   * A batch, a sub-batch or a group of channels has one value per channel. Its variance is always 0, so that it cannot
   * be normalised. In training it is most often the last batch of an epoch, with one sample left over, or an input of
   * shape [1, C].
   *
   * Remedy: Drop or merge the last batch, pass a larger one, or use mode "eval" or "frozen". Group and layer norm
   * work for one sample.
   */
  | "one-value-per-channel"
  /**
   * The mean or the variance of a batch is NaN or infinite, because x contains NaN or Infinity, or values near the
   * largest of its type. The running statistics and counters are as they were before the call.
   *
   * Remedy: Find the first layer that throws: the fault is before it. Usual causes are a learning rate that is too
   * high, a division by zero, a logarithm of zero, or missing values in the data. With `onNonFinite: "skip"`
   * such batches do not update the running statistics, and with "allow" they do.
   */
  | "non-finite-statistics"
  /**
   * `backward` has no forward to differentiate: there was none, its backward has run already, the forward was one in
   * mode "eval" that kept nothing, or `out` was written over an array that backward needs.
   *
   * Remedy: Call `forward` before each `backward`. Where a layer is called several times, keep `bn.saved` after each
   * forward, and pass it as `backward(dy, { saved })`.
   */
  | "no-forward"
  /**
   * Mode "eval" or "frozen", `recalibrate`, `diagnose` or folding needs running statistics, and the layer was made
   * with `trackRunningStats: false`.
   *
   * Remedy: Make the layer with running statistics, or use mode "train" or "batch".
   */
  | "no-running-statistics"
  /**
   * A destination shares memory with something that is still needed: `out` with the x that backward will read, two
   * destinations with each other, or arrays that overlap in part. With `init({ checks: true })` it also means that x
   * was changed between forward and backward.
   *
   * Remedy: Pass a destination of its own. Writing over x is possible in mode "eval", and over dy in backward.
   */
  | "in-place"
  /**
   * A layer, a tensor in wasm memory, or a tensor, layer or model of TensorFlow.js was used after `dispose()`, or
   * after the end of its `using` block or tf.tidy.
   *
   * Remedy: Dispose after the last use, or make a new one. `tf.keep` keeps a tensor beyond tf.tidy.
   */
  | "disposed"
  /**
   * A tensor lives in another wasm memory than the layer or the other tensors of the call. `init` with another memory
   * and `attachMemory` make several of them.
   *
   * Remedy: Copy the elements: `tensor(other.shape)`, then `.data.set(other.data)`.
   */
  | "other-memory"
  /**
   * The wasm memory cannot grow any further, because its limit or that of the engine (at most 4 GiB) is reached.
   * Layers and tensors that nobody disposed of are freed only when the garbage collector finds them, between two
   * tasks of the event loop.
   *
   * Remedy: Call `dispose()` on tensors and layers, or declare them with `using`; await something in a long loop;
   * split the batch.
   */
  | "out-of-memory"
  /**
   * A state does not fit the layer: a name is missing or unknown, a vector has another length, or a value is NaN or a
   * negative variance. The message lists everything that is wrong, and nothing was loaded.
   *
   * Remedy: Pass `prefix` if the state has several layers, `framework` if its names are not PyTorch's, and `strict:
   * false` to load what fits.
   */
  | "state-dict"
  /**
   * The bytes are not a safetensors file, or only a part of one.
   *
   * Remedy: Compare the size of the file with its source, and load or save it again. A page of HTML instead of the
   * file means that a download failed.
   */
  | "safetensors"
  /**
   * A model, a checkpoint, an array or an image cannot be read by the tools: it is missing, damaged, of another
   * format, or contains what the tools do not support. Nothing was written.
   *
   * Remedy: The message names the place in the file and the remedy. `npx batchnorm-wasm inspect FILE` shows what is
   * found in a file that can be read.
   */
  | "model-file"
  /**
   * The engine has no WebAssembly, or none with 128-bit SIMD.
   *
   * Remedy: Use Node 16.4, Chrome 91, Firefox 89, Safari 16.4 or newer. Some browsers switch WebAssembly off in a
   * mode of higher security.
   */
  | "no-simd"
  /**
   * A thread of the pool did not start, or ended during a call. In a page, the content security policy may forbid
   * workers. In Node, `--permission` forbids them. Hosts at the edge have no threads.
   *
   * Remedy: Allow `worker-src blob:` or `--allow-worker`, or call `init` without `threads`. After the end of a
   * thread, call `init({ threads })` for a new pool, or `stopThreads()`. The results of the failed call are incomplete.
   */
  | "thread"
  /**
   * A rank of a process group failed, did not take part in time, or made another call than the others. All ranks
   * throw it, so that none waits forever.
   *
   * Remedy: Look for the error of the rank that the message names. All ranks must make the same calls in the same
   * order, on layers of the same options. Give slow ranks more time with `timeoutMs`.
   */
  | "group"
  /**
   * The package koffi or the library of Open MPI is missing, or MPI has been finalised.
   *
   * Remedy: `npm install koffi`, and `apt install openmpi-bin libopenmpi3` or the option `library`.
   */
  | "mpi";

/**
 * An error of batch normalization itself, whose `code` stays the same when the wording of the message changes.
 * `instanceof` also accepts errors of other copies of the package, such as one loaded by import and one by require.
 */
export class BatchNormError extends Error {
  // A field, because an assignment throws where a program has frozen Error.prototype.
  /** The name of the class, "BatchNormError". */
  override readonly name = "BatchNormError";
  /** What is wrong, for programs. */
  readonly code: BatchNormErrorCode;

  /** Makes an error. The library throws it; programs only catch it. */
  constructor(code: BatchNormErrorCode, message: string) {
    super(message);
    this.code = code;
  }

  /** Returns whether a value is such an error, of this or another copy of the package. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return (value as Partial<Error> | null)?.name === "BatchNormError";
  }
}

type Shape = readonly number[];

/** A text that a message shows as it is. Other strings are shown in quotes, since they may come from a user or a file. */
class AsIs {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** Returns a description of what a call or a file has instead of the expected, for a message to show without quotes. */
export const asIs = (description: string): unknown => new AsIs(description);

/** A message shows at most this many items of a list, so that the message stays readable. */
const ITEMS = 8;

/** A message shows at most this many characters of a string, so that it stays on one line. */
const CHARACTERS = 60;

/** A message about a state shows its complaints, a layer's own first, up to about this many characters. */
const COMPLAINTS = 700;

/** Returns a text that is cut after `most` characters. */
const cut = (text: string, most: number) => (text.length > most ? `${text.slice(0, most)}…` : text);

const firstItems = (list: readonly unknown[], separator: string, item: (value: unknown) => string, most = ITEMS) =>
  list.slice(0, most).map(item).join(separator) + (list.length > most ? `${separator}… (${list.length} in all)` : "");

const dims = (shape: Shape) => firstItems(shape, "×", (size) => cut(String(size), CHARACTERS));

/** Returns the part of a message that all errors have in common. Names of options and of tensors may be the user's. */
const mismatch = (name: string, expected: string, got: unknown) =>
  `${cut(name, 2 * CHARACTERS)}: expected ${cut(expected, 6 * CHARACTERS)}, got ${show(got)}`;

/**
 * Returns a value as a text of at most a few hundred characters. Lists are shown to a depth of two, since they may be
 * cyclic. A revoked Proxy throws whatever is read of it.
 */
function show(value: unknown, depth = 2): string {
  try {
    if (typeof value === "string") return JSON.stringify(cut(value, CHARACTERS));
    if (value instanceof AsIs) return cut(value.text, 2 * CHARACTERS);
    if (typeof value === "function") return "a function";
    if (Array.isArray(value))
      return depth ? cut(`[${firstItems(value, ", ", (item) => show(item, depth - 1))}]`, 4 * CHARACTERS) : "[…]";
    if (typeof value !== "object" || value === null) return cut(String(value), CHARACTERS);
    const { name = "Object" } = value.constructor ?? {};
    const kind = typeof name === "string" ? cut(name, CHARACTERS) : "Object";
    return ArrayBuffer.isView(value) && "length" in value ? `${kind}(${value.length})` : kind;
  } catch {
    return "a revoked Proxy";
  }
}

export const wrongKind = (name: string, expected: string, got: unknown) => new TypeError(mismatch(name, expected, got));

export const wrongValue = (name: string, expected: string, got: unknown) =>
  new RangeError(mismatch(name, expected, got));

/** Returns the error for something that a call needs and does not have. */
export const missing = (name: string, expected: string) => wrongValue(name, expected, asIs("none"));

/** Returns the error for a wrong number of elements. `xShape` is the shape of x, if that decides the number. */
export const wrongLength = (name: string, shape: Shape, got: number, xShape?: Shape) =>
  wrongValue(
    name,
    `${shape.reduce((a, b) => a * b, 1)} elements (${dims(shape)})${xShape ? ` for x of shape ${show(xShape)}` : ""}`,
    got,
  );

export const nestedList = (name: string, got: unknown) =>
  new TypeError(`${name}: expected a flat list, got nested ${show(got)}; pass ${name}.flat(), or { data, shape }`);

/** Returns the error for `accumulate` after a backward whose gradient had another shape. */
export const wrongGradient = (parameter: string, shape: Shape, got: number) =>
  new TypeError(
    `accumulate: expected a gradient of ${parameter} of shape ${show(shape)} from the backward before, got one of ${got} ` +
      "elements; pass dGammaOut and dBetaOut",
  );

/** Returns the error for a view of wasm memory that growth has emptied. */
export const emptiedView = (name: string, shape: Shape) =>
  new RangeError(
    `${name}.data: expected ${dims(shape)} elements, got a view that growth of the memory has emptied; ` +
      "read tensor.data again after calls that allocate",
  );

/** Returns the error for elements that do not lie together in the order of the shape. `field` says so. */
export const notContiguous = (name: string, field: string, got: unknown) =>
  new TypeError(
    `${name}.${field}: expected elements in row-major order from index 0 on, got ${show(got)}; pass a contiguous copy`,
  );

/** Returns the error for a Proxy around a tensor or a layer, which cannot reach its private fields. */
export const proxied = (name: string) =>
  new TypeError(`${name}: expected the object itself, got a Proxy around it; in Vue use markRaw or toRaw`);

export const wrongChannels = (name: string, channels: number, axis: number, shape: Shape, layout: string) =>
  new RangeError(
    `${name}: expected ${channels} channels on axis ${axis} (layout ${show(layout)}), got ${shape[axis]} in ${dims(shape)}; ` +
      `pass the other layout or construct with ${shape[axis]} channels`,
  );

export const wrongShape = (name: string, expected: Shape, got: Shape) =>
  new RangeError(`${name}: expected shape ${dims(expected)}, got ${dims(got)}`);

export const tooLarge = (name: string, shape: Shape, bytes: number, limit: number) =>
  new RangeError(
    `${name}: expected at most ${limit} bytes (4 GiB), got ${dims(shape)} = ${bytes} bytes; split the batch`,
  );

export const unknownOption = (where: string, name: string, known: readonly string[]) =>
  wrongKind(where, `options among ${known.join(", ")}`, name);

export const unknownProperty = (name: string) =>
  wrongKind(
    `bn.${name}`,
    "a property that can be assigned (mode, momentum, epsilon, gamma, beta, runningMean, runningVariance, renorm)",
    name,
  );

/** Returns the error for `adapt` of a layer Normalization that was made with its statistics. */
export const adaptGiven = (layer: string) =>
  new TypeError(
    `adapt: expected a layer that gets its statistics from data, got ${layer}, made with a mean and a variance; make it without them`,
  );

/** Returns the error for too few of something, or none. */
export const tooFew = (name: string, expected: string, got: string | number, remedy: string) =>
  new RangeError(`${name}: expected ${expected}, got ${got}; ${remedy}`);

/** Returns the error for two arguments of which a call takes one. */
export const exclusive = (name: string, other: string) =>
  new TypeError(`${name}: expected without ${other}, got both; leave one of them out`);

export const exclusiveStatistics = (name: string) => exclusive(name, "statistics that are given");

export const absentParameter = (name: string, option: string) =>
  new TypeError(`${name}: expected a layer that has it, got one made with ${option}; make it without that option`);

/**
 * Returns the error for training on one value per channel. `where` names the part of the batch, if it is not the whole.
 */
export const oneValuePerChannel = (mode: string, shape: Shape, where = "") =>
  new BatchNormError(
    "one-value-per-channel",
    `Expected more than 1 value per channel when training, got input size ${dims(shape)} in mode ${show(mode)}${where}: ` +
      'the variance of one value says nothing; pass a larger batch, or use mode "eval" or "frozen" with running statistics',
  );

/** Returns the error for one value per channel in an operation on TF.js's tensors, which has no modes. */
export const oneValueInOperation = (shape: Shape, masked: boolean) =>
  new BatchNormError(
    "one-value-per-channel",
    `Expected more than 1 value per channel when training, got input size ${dims(shape)}${masked ? ", all but one masked" : ""}: ` +
      "the variance of one value says nothing; pass a larger batch, or use batchNormInference with known statistics",
  );

/** Returns the error for diagnosing a batch of one value per channel. `layer` says for which one, if there are several. */
export const oneValueInDiagnosis = (shape: Shape, layer = "") =>
  new BatchNormError(
    "one-value-per-channel",
    `Expected more than 1 value per channel${layer && ` for ${layer}`}, got input size ${dims(shape)}: the variance of one value ` +
      "says nothing; pass a larger batch",
  );

/** Returns the warning of a layer for TF.js that was called in training with one value per channel. */
export const oneValueWarning = (layer: string, shape: Shape, masked: boolean) =>
  `batchnorm-wasm: ${layer} expected more than 1 value per channel in training, got input size ${dims(shape)}` +
  `${masked ? " under a mask that leaves at most one position" : ""}. Such batches give beta and leave the moving statistics as they ` +
  "are. Choose a batchSize that leaves more than one sample for the last batch.";

/** Returns the warning of a layer for TF.js that cannot apply a mask. */
export const unusedMaskWarning = (layer: string, shape: Shape, mask: Shape, axis: number) =>
  `batchnorm-wasm: ${layer} expected a mask of the first axes of x with the channels on the last axis, got a mask of shape ` +
  `${dims(mask)} for x of shape ${dims(shape)} with the channels on axis ${axis}. The layer goes on without it, as TF.js's does.`;

/** Returns the warning of a layer for TF.js that has skipped the update of its moving statistics. */
export const nonFiniteWarning = (layer: string) =>
  `batchnorm-wasm: ${layer} expected a batch with finite statistics, got NaN or Infinity. Such batches leave the moving ` +
  'statistics as they are. Look for it in the input; onNonFinite: "throw" stops there and names the channel.';

/** Returns the error for one value per statistic in instance norm, or in group norm if `instance` is false. */
export const oneValuePerGroup = (instance: boolean, shape: Shape) =>
  new BatchNormError(
    "one-value-per-channel",
    `x: expected more than 1 ${instance ? "spatial element" : "value per group"}, got input size ${dims(shape)}: ` +
      `the variance of one value says nothing; pass ${instance ? "more positions" : "fewer groups"}, or use layerNormForward`,
  );

/** Returns the error for NaN or infinite statistics. `remedy` is added to the advice to look at the input. */
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
      `${channel}; nothing was updated. Look for it in the input${remedy}`,
  );

export const noForward = (what: string, remedy = "call forward first") =>
  new BatchNormError("no-forward", `backward: expected a forward call before it, got ${what}; ${remedy}`);

/** Returns the error for a second backward of one forward, whose x may have been replaced since. */
export const secondBackward = () =>
  noForward(
    "one whose backward has run",
    "to differentiate a forward again, keep bn.saved after it and call backward(dy, { saved })",
  );

/** Returns the error for what needs running statistics. Without `name` it does in any mode, as folding does. */
export const noStatistics = (name = "bn", remedy = "make it without that option") =>
  new BatchNormError(
    "no-running-statistics",
    `${name}: expected running statistics, got a layer made with trackRunningStats: false; ${remedy}`,
  );

export const noRunningStatistics = (mode: string) => noStatistics(`mode ${show(mode)}`, 'use "train" or "batch"');

const wrongWeight = (expected: string, got: number, shape: Shape, format: string, groups: number, remedy: string) =>
  new RangeError(
    `weight: expected ${expected}, the channels of bn, got ${got} in ${dims(shape)} (format ${show(format)}, groups ${groups}); ` +
      `pass the format that names the weight's axes, and groups${remedy}`,
  );

export const wrongOutputs = (channels: number, got: number, shape: Shape, format: string, groups: number) =>
  wrongWeight(`${channels} outputs`, got, shape, format, groups, ' with "IOHW"');

/** Returns the error for a weight behind a BatchNorm. A linear one may have a multiple of its channels as inputs. */
export const wrongInputs = (channels: number, got: number, shape: Shape, format: string, groups: number) =>
  wrongWeight(`${channels} inputs${shape.length > 2 ? "" : " or a multiple"}`, got, shape, format, groups, "");

/** What messages say where a copy of a layer may have arrived that has lost everything. */
export const LOST = "structuredClone and spread lose a layer's contents; clone() and stateDict() copy them";

/** A tensor of a forward that has other elements in backward (init({ checks: true })). */
export const writtenSince = (name: string) =>
  new BatchNormError(
    "in-place",
    `${name}: expected the elements that forward read, got others; write to ${name} after backward, or pass forward a copy`,
  );

/**
 * Returns the error for a destination that overlaps its source. Give `mode` if backward needs the source in this mode, or
 * null if the operation has no modes; without it, the two arrays overlap only in part.
 */
export const inPlace = (name: string, source: string, mode?: string | null) =>
  new BatchNormError(
    "in-place",
    mode === undefined
      ? `${name}: expected memory of its own, or exactly ${source}'s, got an array that overlaps ${source} in part; pass another array`
      : `${name}: expected other memory than ${source}${mode ? ` in mode ${show(mode)}` : ""}, got memory of ${source}, which ` +
          `backward needs; pass another tensor${name !== "out" ? ", or dy itself" : mode ? ', or use mode "eval"' : ""}`,
  );

export const sameOut = (name: string, other: string) =>
  new BatchNormError(
    "in-place",
    `${name}: expected other memory than ${other}, got memory of both; pass another array or tensor`,
  );

export const disposed = (name: string) =>
  new BatchNormError("disposed", `${name}: expected one that is alive, got a disposed one; make a new one`);

export const otherMemory = (name: string) =>
  new BatchNormError(
    "other-memory",
    `${name}: expected a tensor in the memory of the others, got another; copy its data`,
  );

export const outOfMemory = (bytes: number, used: number, limit: number) =>
  new BatchNormError(
    "out-of-memory",
    `memory: expected room for ${bytes} bytes, got ${used} of ${limit} bytes in use; ` +
      "dispose tensors, or split the batch; forgotten ones wait for the event loop",
  );

/**
 * Returns the error for a state that does not fit the layer. `prefixes` are the other layers of the state, as
 * suggestions.
 */
export function wrongState(complaints: readonly string[], prefixes: readonly string[]) {
  const texts = complaints.map((text) => cut(text, 4 * CHARACTERS));
  let room = COMPLAINTS;
  const fitting = texts.filter(({ length }) => {
    room -= length;
    return room >= 0;
  });
  return new BatchNormError(
    "state-dict",
    `loadStateDict: nothing was loaded; ${firstItems(texts, "; ", String, fitting.length)}` +
      (prefixes.length ? `. Pass the prefix of one layer, as in ${show(prefixes)}` : ""),
  );
}

export const malformedFile = (where: string, expected: string, got: unknown) =>
  new BatchNormError(
    "safetensors",
    `safetensors: ${mismatch(where, expected, got)}; the file is damaged or of another format`,
  );

/** Returns the error for a file whose header would be longer than readers take. */
export const longHeader = (limit: number, bytes: number) =>
  new BatchNormError(
    "safetensors",
    `safetensors: ${mismatch("header", `at most ${limit} bytes`, bytes)}; shorten the names of tensors, or write several files`,
  );

/**
 * Returns the error for a model file of any format. `file` is its name, and `where` the place in it.
 */
export const wrongFile = (
  file: string,
  where: string,
  expected: string,
  got: unknown,
  remedy = "the file is damaged or of another format",
) => new BatchNormError("model-file", `${cut(file, 2 * CHARACTERS)}: ${mismatch(where, expected, got)}; ${remedy}`);

/** Returns the error of a format's own parser as the error of a file with a name. Other errors stay as they are. */
export const inFile = (file: string, error: unknown) =>
  error instanceof BatchNormError && error.code === "safetensors"
    ? new BatchNormError("model-file", `${cut(file, 2 * CHARACTERS)}: ${error.message}`)
    : error;

export const noSimd = () =>
  new BatchNormError(
    "no-simd",
    "batchnorm-wasm: expected an engine with WebAssembly SIMD (Node 16.4, Chrome 91, Firefox 89, Safari 16.4 or newer), got one without",
  );

/** Returns the error for a feature that batchnorm-wasm/core leaves out. In TypeScript such a call does not compile. */
export const notInCore = (what: string) =>
  new TypeError(
    `${what}: expected batchnorm-wasm, the complete entry, got batchnorm-wasm/core, which lacks it; import the other`,
  );

export const noBytes = () =>
  new BatchNormError(
    "thread",
    "threads: expected a host that compiles kernels, got one that only takes compiled modules; " +
      "call init without threads",
  );

export const threadNotStarted = (thread: number, why: string) =>
  new BatchNormError(
    "thread",
    `threads: expected thread ${thread} of the pool to start, got: ${why}; a page's content security policy must allow ` +
      "worker-src blob:, Node's --permission needs --allow-worker, and an audio worklet has no workers; call init without threads there",
  );

export const threadDied = (thread: number, how: string) =>
  new BatchNormError(
    "thread",
    `thread ${thread} of the pool: expected it to do its share, got the end of it: ${how}; what the call wrote is incomplete. ` +
      "Call init({ threads }) for a new pool, or stopThreads() to go on with one thread",
  );

/** Returns the error for a rank that does not take part. `what` says what this rank has observed. */
export const lostRank = (rank: number, size: number, what: string) =>
  new BatchNormError(
    "group",
    `rank ${rank} of ${size}: expected every rank of the group to take part, got none of some: ${what}; ` +
      "the group is of no more use. Start all ranks anew, or give slow ones more time with timeoutMs",
  );

/** Returns the error for an exchange in which another rank has failed. `failed` is that rank, if it is known. */
export const rankFailed = (failed: number | undefined, where: string) =>
  new BatchNormError(
    "group",
    `${where}: expected every rank of the group to succeed, got an error on ${failed === undefined ? "another rank" : `rank ${failed}`}, ` +
      "which says there what it is; nothing was changed here",
  );

/** Returns the error for a rank whose part of an exchange does not belong to the others'. All ranks throw it. */
export const wrongExchange = (name: string, expected: string, got: unknown) =>
  new BatchNormError(
    "group",
    `${mismatch(name, expected, got)}; nothing was changed on any rank. All ranks make the same calls, in the same order, ` +
      "on layers that were made in the same order, with the same options and the same running statistics",
  );

/** Returns the error for a group that does not return this rank's own value in its place. */
export const faultyGroup = (rank: number, sent: number, got: unknown) =>
  new BatchNormError(
    "group",
    `${mismatch("group", `the sent value ${sent} in the place of rank ${rank}`, got)}; \`sum\` adds up the values of all ` +
      "ranks, and `gather` returns them in the order of the ranks",
  );

/** Returns the error for a part of MPI that is missing. `error` is the cause, whose message is included. */
export const noMpi = (what: string, remedy: string, error?: unknown) =>
  new BatchNormError(
    "mpi",
    `mpiGroup: expected ${what}, got none${error === undefined ? "" : `: ${error instanceof Error ? error.message : error}`}; ${remedy}`,
  );

/** The reason why there is one thread only. */
export const NO_SHARED_MEMORY =
  "the engine has no shared memory, or this page is not cross-origin isolated: serve it with Cross-Origin-Opener-Policy: same-origin and " +
  "Cross-Origin-Embedder-Policy: require-corp";

/** Returns the warning that calls run on one thread. It is no error, because the results are the same. */
export const oneThreadWarning = (reason: string) => `batchnorm-wasm: one thread, because ${reason}`;

/** Returns the warning for a momentum from 0.9 on, which most often is the decay of another framework. */
export const momentumHint = (momentum: number) =>
  `batchnorm-wasm: momentum ${momentum} weighs the NEW batch, as in PyTorch. If it comes from Keras, TF.js, ONNX or Flax, ` +
  `which weigh the old value, pass decay: ${momentum}, else decay: 1 - ${momentum}.`;

const cancels = (where: string, ratio: number, terms: string, error: number, size: string, remedy: string) =>
  `${where}: expected an input whose mean is within reach of its spread, got a mean of ${ratio.toPrecision(2)} × ` +
  `√(variance + epsilon), so that ${terms} cancel and y is off by ${error.toPrecision(2)} × ${size}; ${remedy}`;

/** Returns the text of a folding warning: how far y is off if this channel is folded. */
export const foldCancels = (channel: number, ratio: number, error: number, remedy: string) =>
  cancels(`channel ${channel}`, ratio, "scale·x and shift", error, "(|gamma| + |beta|)", remedy);

/** Returns the text of a warning of forward folding: how far this output is off, mostly because of this channel. */
export const sumCancels = (output: number, channel: number, ratio: number, error: number, remedy: string) =>
  cancels(`output ${output}, channel ${channel}`, ratio, "weight′·x and bias′", error, "its size", remedy);

/** Returns the text of a folding warning: this channel cannot be folded into finite numbers. */
export const foldOverflows = (channel: number) =>
  `channel ${channel}: expected finite numbers, got NaN or an overflow in the folded ones; look at its statistics, gamma, ` +
  "beta and weights";
