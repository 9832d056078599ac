// Mutants of the facade that no test can or should fail for, each with the reason. facade.mjs compares them with the
// mutants that survive. test/common/accepted-mutants.test.ts checks that the code of every entry still stands.

/**
 * @typedef {object} Accepted
 * @property {string} file The file in src/.
 * @property {string} reason Why the mutants are accepted, as a full sentence.
 * @property {[line: string, change: string][]} mutants The line in which each change begins, without its indent, and the
 *   change as `changeOf` returns it.
 */

/** @type {Accepted[]} */
export const accepted = [
  {
    file: "src/distributed/shared-memory.ts",
    reason: "Without these reads of the turn, or with one more, a rank sleeps sooner or later, which costs time alone.",
    mutants: [
      [
        "for (let spins = 0; spins < SPINS; spins++) if (Atomics.load(control, TURN) !== turn) return;",
        "spins < SPINS → false",
      ],
      [
        "for (let spins = 0; spins < SPINS; spins++) if (Atomics.load(control, TURN) !== turn) return;",
        "spins < SPINS → spins <= SPINS",
      ],
      [
        "for (let spins = 0; spins < SPINS; spins++) if (Atomics.load(control, TURN) !== turn) return;",
        "spins < SPINS → spins >= SPINS",
      ],
      [
        "for (let spins = 0; spins < SPINS; spins++) if (Atomics.load(control, TURN) !== turn) return;",
        "Atomics.load(control, TURN) !== turn → false",
      ],
    ],
  },
  {
    file: "src/distributed/message-ports.ts",
    reason: "The part of rank 0 is compared with itself, so another one has an index above 0.",
    mutants: [["unlike < 0", "unlike < 0 → unlike <= 0"]],
  },
  {
    file: "src/distributed/message-ports.ts",
    reason: "All parts are there only after rank 0 has begun the exchange, too, and then the function is there.",
    mutants: [["exchange.end?.(result);", "exchange.end?.(result) → exchange.end(result)"]],
  },
  {
    file: "src/distributed/message-ports.ts",
    reason: "A lost group has no exchange that could end, so reading its messages costs memory alone.",
    mutants: [["if (this.#lost) return;", "this.#lost → false"]],
  },
  {
    file: "src/distributed/process-group.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [
      [
        "for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (values[i] as number);",
        "i < sum.length → i <= sum.length",
      ],
    ],
  },
  {
    file: "src/memory/allocator.ts",
    reason: "Blocks of numbers are divided, and zeros deleted, a little sooner or later, which costs time alone.",
    mutants: [
      [
        "if (block.length > BLOCK) this.#blocks.splice(i, 0, block.splice(0, BLOCK / 2));",
        "block.length > BLOCK → block.length >= BLOCK",
      ],
      ["if (links.size < this.#purgeAt) return;", "links.size < this.#purgeAt → links.size <= this.#purgeAt"],
    ],
  },
  {
    file: "src/ops/weight-norm.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [
      ["for (let c = 0; c < channels; c++)", "c < channels → c <= channels"],
      [
        "for (let c = 0; c < channels; c++) norm[c] = Math.sqrt(variance[c] as number);",
        "c < channels → c <= channels",
      ],
    ],
  },
  {
    file: "src/ops/weight-norm.ts",
    reason: "The terms have no activation, whose derivative could be taken.",
    mutants: [
      [
        "if (to) gradientMap(source, upstream, to, terms, products, { count: 1, gammaVaries: false, fused: false });",
        "false → true",
      ],
    ],
  },
  {
    file: "src/layer/diagnose.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [["for (let c = 0; c < mean.length; c++) {", "c < mean.length → c <= mean.length"]],
  },
  {
    file: "src/layer/diagnose.ts",
    reason: "A layer has both running statistics or neither.",
    mutants: [["if (!mean || !variance) throw noStatistics();", "!mean || !variance → !mean && !variance"]],
  },
  {
    file: "src/layer/diagnose.ts",
    reason:
      "An activation without zero gradients has all values active, which then takes a forward and backward to find.",
    mutants: [
      [
        "const hasZeroGradients = resolved.code !== 0 && resolved.slope === 0;",
        "resolved.code !== 0 && resolved.slope === 0 → true",
      ],
      [
        "const hasZeroGradients = resolved.code !== 0 && resolved.slope === 0;",
        "resolved.code !== 0 && resolved.slope === 0 → resolved.code !== 0 || resolved.slope === 0",
      ],
      ["const hasZeroGradients = resolved.code !== 0 && resolved.slope === 0;", "resolved.code !== 0 → true"],
      ["const hasZeroGradients = resolved.code !== 0 && resolved.slope === 0;", "resolved.slope === 0 → true"],
    ],
  },
  {
    file: "src/layer/diagnose.ts",
    reason:
      "The square root that this is compared with is never exactly the limit, and neither is the number of errors.",
    mutants: [
      [
        "constant: (this.xHatStd[c] as number) < CONSTANT,",
        "(this.xHatStd[c] as number) < CONSTANT → (this.xHatStd[c] as number) <= CONSTANT",
      ],
      [
        "const isSignificant = (errors: Float64Array) => !(Math.abs(errors[c] as number) <= SIGNIFICANT);",
        "Math.abs(errors[c] as number) <= SIGNIFICANT → Math.abs(errors[c] as number) < SIGNIFICANT",
      ],
    ],
  },
  {
    file: "src/layer/diagnose.ts",
    reason: "The engine of the run, Node 20, has no Float16Array, and other arrays of 16 bits are Uint16Array.",
    mutants: [
      ['data.fill(arrayKind(data) === "Uint16Array" ? ONE[dtype] : 1);', 'arrayKind(data) === "Uint16Array" → true'],
    ],
  },
  {
    file: "src/layer/running-statistics.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [
      ["for (let c = 0; c < values.length; c++) {", "c < values.length → c <= values.length"],
      ["for (let c = 0; c < this.#channels; c++) {", "c < this.#channels → c <= this.#channels"],
    ],
  },
  {
    file: "src/layer/options.ts",
    reason: "A layer of the most channels has vectors of 40 GB, for which there is no room.",
    mutants: [
      [
        // biome-ignore lint/suspicious/noTemplateCurlyInString: this is the code of a line
        'checkNumber("channels", positiveInteger("channels", channels), `at most ${MAX_CHANNELS}`, (n) => n <= MAX_CHANNELS);',
        "n <= MAX_CHANNELS → n < MAX_CHANNELS",
      ],
    ],
  },
  {
    file: "src/memory/tensor.ts",
    reason: "An engine may clear the bytes of a buffer that cannot be resized, which costs time alone.",
    mutants: [
      [
        "return new (ArrayBuffer as new (bytes: number, options: object) => ArrayBuffer)(bytes, { maxByteLength: bytes });",
        "{ maxByteLength: bytes } → {}",
      ],
    ],
  },
  {
    file: "src/memory/tensor.ts",
    reason:
      "Only a tensor of a heap that is told of collected tensors has a reserve; to unregister another one does nothing.",
    mutants: [
      ["if (this.#reserve) this.#heap.collected?.unregister(this);", "this.#reserve → true"],
      [
        "if (this.#reserve) this.#heap.collected?.unregister(this);",
        "this.#heap.collected?.unregister → this.#heap.collected.unregister",
      ],
    ],
  },
  {
    file: "src/memory/tensor.ts",
    reason: "A view keeps its tensor alive. Tensors without a reserve are the call's own, which disposes of them.",
    mutants: [["if (this.#reserve) owners.set(this.#data, this);", "this.#reserve → true"]],
  },
  {
    file: "src/ops/statistics.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [
      ["for (let c = 0; c < mean.length; c++) {", "c < mean.length → c <= mean.length"],
      [
        "for (let c = 0; c < mean.length; c++) packed[1 + mean.length + c] = (variance[c] as number) * count;",
        "c < mean.length → c <= mean.length",
      ],
      [
        "for (let c = 0; c < channels; c++) variance[c] = count > 0 ? (variance[c] as number) / count : 0;",
        "c < channels → c <= channels",
      ],
      ["for (let c = 0; c < channels; c++) {", "c < channels → c <= channels"],
    ],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "The geometry of a part that is everything is made anew, which costs time alone.",
    mutants: [
      [
        "const part = size === samples ? geometry : samplesOf(geometry, shape, layout, size);",
        "size === samples → false",
      ],
    ],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "The same slot was asked for the same module earlier in the call, which would have thrown.",
    mutants: [
      ['const weights = selection && masks.get("mask").loadWeights(call, source, selection, false);', '"mask" → ""'],
      ['const weights = selection && masks.get("mask").loadWeights(call, source, selection, true);', '"mask" → ""'],
      ['run(fusion.get("activation").derivationOf(source, residual, dy, upstream, terms)),', '"activation" → ""'],
      ['fusion.get("activation").activationGradient(call, x, residual, dy, dz, [subBatch]);', '"activation" → ""'],
    ],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "A Float64Array ignores what is written behind its end.",
    mutants: [["for (let c = 0; c < values.length; c++)", "c < values.length → c <= values.length"]],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason:
      "The activation's derivative is taken by kernels of their own or by those of the sums, which is a matter of time alone.",
    mutants: [
      [
        '): boolean => operandDtype !== "float64" && !conditional && !selection && total > 0 && fuses(residual, activation);',
        'operandDtype !== "float64" && !conditional && !selection && … → false',
      ],
    ],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "Sums of gradients that nobody needs are computed, which costs time alone.",
    mutants: [
      [
        "const needed = request.sums || (dx !== undefined && total > 0 && !joint);",
        "dx !== undefined && total > 0 && !joint → dx !== undefined && total > 0 || !joint",
      ],
      [
        "const needed = request.sums || (dx !== undefined && total > 0 && !joint);",
        "dx !== undefined && total > 0 → true",
      ],
      [
        "const needed = request.sums || (dx !== undefined && total > 0 && !joint);",
        "dx !== undefined && total > 0 → dx !== undefined || total > 0",
      ],
      ["const needed = request.sums || (dx !== undefined && total > 0 && !joint);", "dx !== undefined → true"],
      [
        "const needed = request.sums || (dx !== undefined && total > 0 && !joint);",
        "request.sums || (dx !== undefined && total > 0 && !joint) → true",
      ],
      ["const needed = request.sums || (dx !== undefined && total > 0 && !joint);", "total > 0 → true"],
      ["const needed = request.sums || (dx !== undefined && total > 0 && !joint);", "total > 0 → total >= 0"],
    ],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason:
      "The sums go through an array of their own, or the sums and dx are computed in two steps instead of one: a matter of time.",
    mutants: [
      [
        "const sums = alone && !subBatch.r && !mixture ? into : emptyGradientSums(geometry.channels);",
        "alone && !subBatch.r && !mixture → false",
      ],
      [
        "if (target && needed && !joint && !mixture) differentiate(source, upstream, target, terms, flow, sums, derive);",
        "target && needed && !joint && !mixture → false",
      ],
    ],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "Sums that are not needed have no place to go and are dropped.",
    mutants: [["if (needed) gradientSums(source, upstream, terms, fused, sums, weights, derive);", "needed → true"]],
  },
  {
    file: "src/memory/guards.ts",
    reason: "What was checked in an earlier call of the same tensors is checked again, which costs time alone.",
    mutants: [
      [
        "value === undefined || (Tensor.is(value) && !value.disposed);",
        "value === undefined || (Tensor.is(value) && !value.disposed) → false",
      ],
      [
        "value === undefined || (Tensor.is(value) && !value.disposed);",
        "value === undefined || (Tensor.is(value) && !value.disposed) → value === undefined && Tensor.is(value) && !value.disposed",
      ],
      ["value === undefined || (Tensor.is(value) && !value.disposed);", "value === undefined → false"],
      ["value === undefined || (Tensor.is(value) && !value.disposed);", "value === undefined → value !== undefined"],
      ["value === undefined || (Tensor.is(value) && !value.disposed);", "Tensor.is(value) && !value.disposed → false"],
    ],
  },
  {
    file: "src/memory/guards.ts",
    reason:
      "The checks behind it find nothing in a tensor, or in an array without these fields, so that skipping them saves time alone.",
    mutants: [
      [
        "if ((offset ?? fortranOrder ?? order ?? layout ?? stride ?? strides ?? null) === null) return;",
        "(offset ?? fortranOrder ?? order ?? layout ?? stride ?? stri… → false",
      ],
      ["if (isTensor) checkTensor(name, value);", "isTensor → true"],
      // biome-ignore lint/suspicious/noTemplateCurlyInString: this is the text of a line of code
      ["if (found) storeOf(found, `${name}.data of ${found}`);", "found → true"],
      ["if (isTensor) return found;", "isTensor → false"],
    ],
  },
  {
    file: "src/memory/heap.ts",
    reason: "A plan or views that could serve again are made anew, which costs time alone.",
    mutants: [
      ["if (buffer === this.u8.buffer) return;", "buffer === this.u8.buffer → false"],
      [
        "if (last?.outer === geometry.outer && last.channels === geometry.channels && last.inner === geometry.inner)",
        "last?.outer === geometry.outer && last.channels === geometry… → false",
      ],
      [
        "if (last.elementBytes === kernels.bytes && options === this.#options) return last;",
        "last.elementBytes === kernels.bytes && options === this.#opt… → false",
      ],
    ],
  },
  {
    file: "src/ops/double-backward.ts",
    reason: "The terms have no activation, so there is no derivative that the kernels could take.",
    mutants: [
      ["gradientSums(x, dz, terms, false, sums.dz);", "false → true"],
      ["gradientSums(x, ddx, terms, false, sums.ddx);", "false → true"],
      [
        "gradientSums(ddx, dz, { ...terms, mean, invStd: new Float64Array(channels).fill(1) }, false, product);",
        "false → true",
      ],
    ],
  },
  {
    file: "src/ops/double-backward.ts",
    reason: "A Float64Array ignores what is written behind its end.",
    mutants: [["for (let c = 0; c < channels; c++) {", "c < channels → c <= channels"]],
  },
  {
    file: "src/ops/forward.ts",
    reason: "A call that is like the one before is prepared anew, which costs time alone.",
    mutants: [
      [
        "export const isPreparedFor = <T extends AnyTensor>(",
        "<T extends AnyTensor>( { inputs }: PreparedForward<AnyTensor… → () => undefined",
      ],
      [
        "inputs.x === x && inputs.out === out && inputs.residual === residual && [x, out, residual].every(isTensorInUse);",
        "inputs.x === x && inputs.out === out && inputs.residual === … → false",
      ],
    ],
  },
  {
    file: "src/ops/forward.ts",
    reason: "The run sets these flags before anything reads them.",
    mutants: [
      ["targets.push({ epsilon: source.epsilon, into, finite: false, tracked: false });", "false → true"],
      ["targets.push({ epsilon: source.epsilon, into, finite: false, tracked: false });", "false → true"],
      ["const target = { epsilon: 0, into, finite: false, tracked: false };", "false → true"],
      ["const target = { epsilon: 0, into, finite: false, tracked: false };", "false → true"],
    ],
  },
  {
    file: "src/ops/forward.ts",
    reason: "Statistics alone read nothing of scale, shift and activation.",
    mutants: [
      [
        "const none: ScaleAndShift = { gamma: null, beta: null, conditional: undefined, activation: NONE };",
        "{ gamma: null, beta: null, conditional: undefined, activatio… → {}",
      ],
    ],
  },
  {
    file: "src/ops/forward.ts",
    reason: "A call with one operand stages nothing, so it has nothing to free.",
    mutants: [["} finally {", "{ call.dispose(); } → {}"]],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "The mask was checked earlier in the call, which would have thrown.",
    mutants: [
      [
        'const selection = weights && masks.get("mask").selectionOf(weights.subarray(first * inner, end * inner));',
        '"mask" → ""',
      ],
    ],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "The shape was checked before, so that this geometry is never refused.",
    mutants: [['): Geometry => geometryOf("x", [samples, ...shape.slice(1)], layout, channels);', '"x" → ""']],
  },
  {
    file: "src/ops/sub-batches.ts",
    reason: "Statistics that are computed right afterwards are set to zero first, which costs time alone.",
    mutants: [
      [
        'if (wanted && subBatch.empty) for (const key of ["mean", "variance", "invStd"] as const) wanted.into[key].fill(0);',
        "wanted && subBatch.empty → wanted || subBatch.empty",
      ],
    ],
  },
  {
    file: "src/memory/guards.ts",
    reason: "A call that is like the one before is checked anew, which costs time alone.",
    mutants: [
      [
        "export const isTensorInUse = (value: AnyTensor | undefined): boolean =>",
        "(value: AnyTensor | undefined): boolean => value === undefin… → () => undefined",
      ],
    ],
  },
];

/** The longest part of a piece of code in the text of a change. */
const SHOWN = 60;

/** Returns code in one line, cut after `SHOWN` characters. */
const short = (code) => {
  const line = code.replace(/\s+/g, " ").trim();
  return line.length > SHOWN ? `${line.slice(0, SHOWN)}…` : line;
};

/** Returns a change of code as a text, such as "a + b → a - b". */
export const changeOf = (before, after) => `${short(before)} → ${short(after)}`;
