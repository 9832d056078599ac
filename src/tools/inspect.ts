// Inspection of a checkpoint: what each batch norm's stored values say about its training and its use. Nothing is run; what
// needs a batch of inputs is `diagnose`. docs/guides/check-a-checkpoint.md explains the findings.

import { checkKeys } from "../common/validate.ts";
import { toAffine } from "../interop/fold.ts";
import { CONSTANT, median, WEAK } from "../layer/diagnose.ts";
import { type Framework, resolveOptions } from "../layer/options.ts";
import type { BatchNormRecord, LayerBefore, ModelFormat } from "./batch-norm-record.ts";
import { type DriftReport, driftBetween } from "./drift.ts";
import { readBatchNorms } from "./formats/index.ts";
import { type Range, rangeOf } from "./range.ts";
import type { ByteSource } from "./source.ts";

/**
 * The epsilon from which on a finding comes. It is a chosen value: frameworks use 1e-5 to 1e-3, and 0.1 changes the scale
 * of a channel whose variance is 1 by 5 %.
 */
const LARGE_EPSILON = 0.1;
/**
 * The weight of the new batch from which on a momentum is probably the other convention's: frameworks use 0.01 to 0.1, and
 * 0.9 to 0.99 for the old value. It is the limit of the hint that options give.
 */
const LARGE_MOMENTUM = 0.9;

/** How bad a finding is: "error" is a result that is wrong, "warning" one that may be, "info" an opportunity. */
export type Severity = "error" | "warning" | "info";

/** The codes of findings. A code stays the same when the wording of its message changes. */
export type FindingCode =
  | "incomplete"
  | "wrong-length"
  | "non-finite"
  | "negative-variance"
  | "never-trained"
  | "training-mode"
  | "wrong-epsilon"
  | "channels-differ"
  | "axis-differs"
  | "variance-below-epsilon"
  | "large-epsilon"
  | "other-momentum"
  | "counts-differ"
  | "ill-conditioned"
  | "dead-channels"
  | "gamma-near-zero"
  | "not-folded";

/** Something to know about one batch norm. */
export interface Finding {
  /** How bad it is. */
  readonly severity: Severity;
  /** What it is, for programs. */
  readonly code: FindingCode;
  /** The batch norm's name in the file. */
  readonly layer: string;
  /** What it is, as a text for people. */
  readonly message: string;
  /** What to do about it. */
  readonly remedy: string;
}

/** What an inspection tells of one batch norm. Lists have channels in ascending order. */
export interface InspectedLayer {
  /** The name of the batch norm in the file. */
  readonly name: string;
  /** The framework whose names and whose momentum the file uses. */
  readonly convention: Framework;
  /** The number of channels, C. */
  readonly channels: number;
  /** The type of the values in the file, under the format's own name. */
  readonly dtype: string;
  /** The number that is added to the variance. */
  readonly epsilon: number;
  /** Whether the file has no epsilon, so that it is the framework's default. */
  readonly isEpsilonAssumed: boolean;
  /** The momentum under both definitions: PyTorch's is the weight of the new batch, Keras's that of the old value. */
  readonly momentum?: { readonly pytorch: number; readonly keras: number };
  /** The number of batches in the running statistics. */
  readonly batches?: number;
  /** Range of the running variance, if it has finite values. */
  readonly variance?: Range;
  /** Range of |gamma|, if there is a gamma with finite values. */
  readonly gamma?: Range;
  /** Channels that carry no information: their x̂ has a standard deviation below 0.1, or their gamma is 0. */
  readonly dead: readonly number[];
  /** Channels whose |gamma| is at most a hundredth of the median |gamma|. */
  readonly weak: readonly number[];
  /** The largest |mean|/√(variance + epsilon). Folding loses log10 of it digits in that channel. */
  readonly largestMean: number;
  /** The layer before it, where the format has a graph. */
  readonly before?: LayerBefore;
}

/** The result of `inspect`: plain values, so that JSON keeps all but NaN and Infinity. */
export interface InspectionReport {
  /** The name of the file. */
  readonly file: string;
  /** The format of the file. */
  readonly format: ModelFormat;
  /** The batch norms, in the order of the file. */
  readonly layers: readonly InspectedLayer[];
  /** The comparison with the file `against`, if there is one. */
  readonly drift?: DriftReport;
  /** Findings of all layers, errors first, then warnings; in the order of the layers otherwise. */
  readonly findings: readonly Finding[];
}

/** Options of `inspect`. */
export interface InspectOptions {
  /** Another checkpoint of the model, such as an earlier one: the report has how far each batch norm has drifted from it. */
  readonly against?: ByteSource;
}

/** Notes a finding of one layer. */
type Note = (severity: Severity, code: FindingCode, message: string, remedy: string) => void;

/**
 * Inspects the batch norms of a model file: safetensors, the index of several such files, a model of Keras (.keras, .h5), the
 * model.json of a TF.js model, layers or graph, with shards, or ONNX. Only headers, topologies and the ranges of batch norms are read.
 *
 * Throws BatchNormError "model-file" for a file that cannot be read, and TypeError for unknown options. A file without batch
 * norms has an empty report.
 */
export async function inspect(source: ByteSource, options: InspectOptions = {}): Promise<InspectionReport> {
  checkKeys("inspect options", options, ["against"]);
  const { against } = options;
  const { format, records } = await readBatchNorms(source);
  const drift = against && driftBetween(source.name, records, against.name, (await readBatchNorms(against)).records);
  const findings: Finding[] = [];
  const usual = mostFrequent(records.flatMap(({ batches }) => batches ?? []));
  const layers = records.map((record) => {
    const note: Note = (severity, code, message, remedy) =>
      findings.push({ severity, code, layer: record.name, message, remedy });
    return inspectLayer(record, usual, note);
  });
  const order: readonly Severity[] = ["error", "warning", "info"];
  findings.sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
  return { file: source.name, format, layers, ...(drift && { drift }), findings };
}

function mostFrequent(counts: readonly number[]): number | undefined {
  const times = new Map<number, number>();
  for (const count of counts) times.set(count, (times.get(count) ?? 0) + 1);
  return [...times].sort(([a, timesOfA], [b, timesOfB]) => timesOfB - timesOfA || b - a)[0]?.[0];
}

function inspectLayer(record: BatchNormRecord, usual: number | undefined, note: Note): InspectedLayer {
  const { name, convention, channels, dtype, mean, variance, gamma, beta, batches, before } = record;
  const assumed = resolveOptions({ preset: convention }).epsilon;
  const isUsable = record.epsilon === undefined || (Number.isFinite(record.epsilon) && record.epsilon >= 0);
  const epsilon = isUsable ? (record.epsilon ?? assumed) : assumed;
  const momentum = momentumOf(record);

  noteConfiguration(record, isUsable, momentum?.pytorch, note);
  if (batches !== undefined && usual !== undefined && batches !== usual)
    note(
      "warning",
      "counts-differ",
      `its running statistics are of ${batches} batches, those of most layers of ${usual}`,
      "look whether the layer was frozen, skipped or taken from another checkpoint",
    );
  if (before) noteLayerBefore(record, before, note);

  const vectors = { mean, variance, gamma, beta };
  const isComplete = noteVectors(vectors, channels, record.problems ?? [], note);
  const dead: number[] = [];
  const weak: number[] = [];
  let largestMean = Number.NaN;
  if (isComplete && mean && variance) {
    const isUntrained = channels > 0 && mean.every((v) => v === 0) && variance.every((v) => v === 1);
    if (isUntrained)
      note(
        "error",
        "never-trained",
        "all running means are 0 and all running variances 1, the values before training, so that it does not normalise",
        "run the model in training mode, or recalibrate its statistics on training data",
      );
    const below = variance.filter((v) => v < epsilon).length;
    if (below)
      note(
        "warning",
        "variance-below-epsilon",
        `the running variance is below epsilon ${short(epsilon)} in ${below} of ${channels} channels, which epsilon then scales`,
        "look at what these channels get, or use the smaller epsilon of the training framework",
      );
    const size = gamma?.map(Math.abs);
    const weakest = size ? WEAK * median(size.slice()) : -1;
    for (let c = 0; c < channels; c++) {
      const v = variance[c] as number;
      const root = Math.sqrt(v + epsilon);
      if ((size && size[c] === 0) || Math.sqrt(v) < CONSTANT * root) dead.push(c);
      else if (size && (size[c] as number) <= weakest) weak.push(c);
    }
    largestMean = mean.reduce((most, m, c) => {
      const root = Math.sqrt((variance[c] as number) + epsilon);
      return Math.max(most, root === 0 ? 0 : Math.abs(m) / root);
    }, 0);
    noteChannels({ dead, weak, channels }, note);
    noteFolding(record, epsilon, { mean, variance, largestMean }, note);
  }
  const varianceRange = rangeOf(variance);
  const gammaRange = rangeOf(gamma?.map(Math.abs));
  return {
    ...{ name, convention, channels, dtype, epsilon, isEpsilonAssumed: record.epsilon === undefined || !isUsable },
    ...(momentum && { momentum }),
    ...(batches !== undefined && { batches }),
    ...(varianceRange && { variance: varianceRange }),
    ...(gammaRange && { gamma: gammaRange }),
    ...{ dead, weak, largestMean },
    ...(before && { before }),
  };
}

/** Returns a momentum under both definitions. */
export function momentumOf({ momentum, convention }: Pick<BatchNormRecord, "momentum" | "convention">) {
  if (momentum === undefined) return undefined;
  // 1 − 0.99 in decimals, not in binary
  const other = Number((1 - momentum).toPrecision(12));
  return convention === "pytorch" ? { pytorch: momentum, keras: other } : { pytorch: other, keras: momentum };
}

function noteConfiguration(record: BatchNormRecord, isUsable: boolean, newWeight: number | undefined, note: Note) {
  const { epsilon, momentum, convention, training } = record;
  if (!isUsable)
    note("error", "wrong-epsilon", `its epsilon is ${epsilon}`, "write a finite epsilon that is not negative");
  else if (epsilon !== undefined && epsilon >= LARGE_EPSILON)
    note(
      "warning",
      "large-epsilon",
      `its epsilon is ${short(epsilon)}, which shrinks channels whose variance is not far above it`,
      "look whether momentum and epsilon were exchanged; frameworks use 1e-5 to 1e-3",
    );
  if (newWeight !== undefined && newWeight >= LARGE_MOMENTUM && newWeight < 1) {
    const other = convention === "pytorch" ? "Keras, TF.js, ONNX and Flax" : "PyTorch";
    note(
      "warning",
      "other-momentum",
      `its momentum ${momentum} gives the new batch a weight of ${short(newWeight)}, and looks like one of ${other}`,
      `before training on, set it to ${short(1 - (momentum as number))} if it comes from there`,
    );
  }
  if (training)
    note(
      "error",
      "training-mode",
      "the model was saved in training mode, so that it normalises by the batch's statistics in inference, too",
      "export it in evaluation mode: model.eval() in PyTorch, training=False in Keras",
    );
}

function noteLayerBefore(record: BatchNormRecord, before: LayerBefore, note: Note): void {
  const { channels, axis } = record;
  const label = `${before.type} ${before.name}`;
  if (axis !== undefined && before.axis !== undefined && axis !== before.axis)
    note(
      "error",
      "axis-differs",
      `it normalises over axis ${axis}, and ${label} before it has its channels on axis ${before.axis}`,
      "build the layer with the axis of the channels: 1 for channels first, -1 for channels last",
    );
  if (before.channels !== undefined && before.channels !== channels)
    note(
      "error",
      "channels-differ",
      `it has ${channels} channels, and ${label} before it has ${before.channels}`,
      "look whether the values belong to another layer, or the axis is another",
    );
  else if (before.isFoldable && !record.training)
    note("info", "not-folded", `it follows ${label} and can be folded into it`, "fold it before you ship the model");
}

type Vectors = Readonly<Record<"mean" | "variance" | "gamma" | "beta", Float64Array | undefined>>;

/** Notes what is wrong with the values. Returns whether nothing is. */
function noteVectors(vectors: Vectors, channels: number, problems: readonly string[], note: Note): boolean {
  let isComplete = problems.length === 0;
  for (const problem of problems)
    note("error", "incomplete", problem, "save the layer's parameters and running statistics in full");
  for (const [name, vector] of Object.entries(vectors)) {
    if (!vector) continue;
    if (vector.length !== channels) {
      isComplete = false;
      note("error", "wrong-length", `${name} has ${vector.length} values for ${channels} channels`, LOST_VALUES);
      continue;
    }
    const infinite = vector.reduce((count, v) => count + (Number.isFinite(v) ? 0 : 1), 0);
    if (infinite) {
      isComplete = false;
      const first = vector.findIndex((v) => !Number.isFinite(v));
      note(
        "error",
        "non-finite",
        `${name} is ${vector[first]} in channel ${first}${infinite > 1 ? ` and not finite in ${infinite} of ${channels}` : ""}`,
        "go back to a checkpoint before it, or recalibrate the statistics on training data",
      );
    }
    const negative = name === "variance" ? vector.findIndex((v) => v < 0) : -1;
    if (negative >= 0) {
      isComplete = false;
      note("error", "negative-variance", `variance is ${vector[negative]} in channel ${negative}`, LOST_VALUES);
    }
  }
  return isComplete;
}

const LOST_VALUES = "look whether the file holds other values under this name, or was converted wrongly";

function noteChannels(
  { dead, weak, channels }: Readonly<Record<"dead" | "weak", number[]>> & { channels: number },
  note: Note,
) {
  if (dead.length)
    note(
      "info",
      "dead-channels",
      `${dead.length} of ${channels} channels are dead: their input is constant or their gamma is 0 (${listed(dead)})`,
      "prune them, or look for a layer before them that passes nothing",
    );
  if (weak.length)
    note(
      "info",
      "gamma-near-zero",
      `gamma is near 0 in ${weak.length} of ${channels} channels (${listed(weak)})`,
      "they are candidates for pruning",
    );
}

/** Notes channels in which folding in float32 loses more digits than the folding functions accept. */
function noteFolding(
  record: BatchNormRecord,
  epsilon: number,
  { mean, variance, largestMean }: { mean: Float64Array; variance: Float64Array; largestMean: number },
  note: Note,
): void {
  const { warnings } = toAffine({
    runningMean: Float32Array.from(mean),
    runningVariance: Float32Array.from(variance),
    gamma: record.gamma && Float32Array.from(record.gamma),
    beta: record.beta && Float32Array.from(record.beta),
    options: { epsilon },
  });
  if (warnings.length)
    note(
      "warning",
      "ill-conditioned",
      `folding in float32 loses digits in ${warnings.length} of ${record.channels} channels ` +
        `(${listed(warnings.map(({ channel }) => channel))}), where |mean| is up to ${short(largestMean)}·√(variance + epsilon)`,
      "keep this batch norm, or take the mean out of its input",
    );
}

/** Returns the first channels of a list as text. */
const listed = (channels: readonly number[]) =>
  `channel${channels.length > 1 ? "s" : ""} ${channels.slice(0, 8).join(", ")}${channels.length > 8 ? ", …" : ""}`;

const short = (value: number) => String(Number(value.toPrecision(3)));
