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
    reason: "The terms have no activation, so there is no derivative that the kernels could take.",
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
    reason: "A typed array ignores what is written behind its end.",
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
    reason: "A call that is like the one before is checked anew, which costs time alone.",
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
      [
        "export const isTensorInUse = (value: AnyTensor | undefined): boolean =>",
        "(value: AnyTensor | undefined): boolean => value === undefin… → () => undefined",
      ],
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
      [
        // biome-ignore lint/suspicious/noTemplateCurlyInString: this is the code of a line
        "if (found) storeOf(found, `${name}.data of ${found}`);",
        "found → true",
      ],
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
    reason: "A typed array ignores what is written behind its end.",
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
    file: "src/ops/norms.ts",
    reason: "How many groups are computed at once, and by which maps, is a matter of time and memory alone.",
    mutants: [
      [
        "const twoMaps = !channelsLast && groupChannels > 1 && inner < LONG;",
        "!channelsLast && groupChannels > 1 && inner < LONG → false",
      ],
      ["const twoMaps = !channelsLast && groupChannels > 1 && inner < LONG;", "!channelsLast → channelsLast"],
      ["const twoMaps = !channelsLast && groupChannels > 1 && inner < LONG;", "inner < LONG → true"],
      ["const twoMaps = !channelsLast && groupChannels > 1 && inner < LONG;", "inner < LONG → inner <= LONG"],
      ["const twoMaps = !channelsLast && groupChannels > 1 && inner < LONG;", "inner < LONG → inner >= LONG"],
      ["const least = count < LONG ? BLOCK_SHORT : BLOCK;", "count < LONG → true"],
      ["const least = count < LONG ? BLOCK_SHORT : BLOCK;", "count < LONG → false"],
      ["const least = count < LONG ? BLOCK_SHORT : BLOCK;", "count < LONG → count <= LONG"],
      ["const least = count < LONG ? BLOCK_SHORT : BLOCK;", "count < LONG → count >= LONG"],
      [
        "const step = channelsLast ? 1 : Math.max(Math.ceil(least / size), twoMaps ? BLOCK_SAMPLES : 1);",
        "Math.max(Math.ceil(least / size), twoMaps ? BLOCK_SAMPLES : … → Math.min(Math.ceil(least / size), twoMaps ? BLOCK_SAMPLES : …",
      ],
      [
        "const step = channelsLast ? 1 : Math.max(Math.ceil(least / size), twoMaps ? BLOCK_SAMPLES : 1);",
        "least / size → least * size",
      ],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [
      [
        "for (let i = 0; i < values.length; i++) repeated.fill(values[i] as number, i * times, (i + 1) * times);",
        "i < values.length → i <= values.length",
      ],
      [
        "for (let i = 0; i < mean.length; i++) variance[i] = (variance[i] as number) + (mean[i] as number) ** 2;",
        "i < mean.length → i <= mean.length",
      ],
      ["for (let at = -(begin % ring.length); at < length; at += ring.length)", "at < length → at <= length"],
      [
        "for (let begin = 0; begin < values.length; begin += groupChannels) {",
        "begin < values.length → begin <= values.length",
      ],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason: "The terms have no activation, so there is no derivative that the kernels could take.",
    mutants: [
      ["gradientSums(source, upstream, terms, false, sums);", "false → true"],
      ["fused: false,", "false → true"],
      ["gradientSums(spare.at(block, channels), dy.at(block, channels), columns, false, sums);", "false → true"],
      ["gradientSums(source, g, rows, false, sums);", "false → true"],
      [
        "gradientMap(source, g, dx.at(block, groups), rows, sums, { count: norm.count, gammaVaries: false, fused: false });",
        "false → true",
      ],
      [
        "gradientMap(source, g, dx.at(block, groups), rows, sums, { count: norm.count, gammaVaries: false, fused: false });",
        "false → true",
      ],
    ],
  },
  {
    file: "src/ops/primitives.ts",
    reason: "Channels whose sums are reliable are summed again, in the way of unreliable ones, which costs time alone.",
    mutants: [
      [
        "const isUnreliable = (channel: number) => heap.u8[plan.unreliable + channel] !== 0;",
        "heap.u8[plan.unreliable + channel] !== 0 → true",
      ],
      ["if (!isUnreliable(begin)) continue;", "!isUnreliable(begin) → false"],
      ["if (unreliable === 0) return 0;", "unreliable === 0 → false"],
    ],
  },
  {
    file: "src/ops/primitives.ts",
    reason:
      "The vectors of y are written without a y, or y is asked for where its vectors alone would tell, which changes no result.",
    mutants: [
      ["const uploaded = y && terms && uploadParameters(x, terms);", "y && terms → y || terms"],
      ["if (y && uploaded) mapAffine(x, residual, y, uploaded, tiles);", "y && uploaded → y || uploaded"],
    ],
  },
  {
    file: "src/ops/primitives.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [
      ["for (let c = 0; c < into.length; c++) {", "c < into.length → c <= into.length"],
      ["for (let i = 0; i < scale.length; i++)", "i < scale.length → i <= scale.length"],
    ],
  },
  {
    file: "src/ops/primitives.ts",
    reason:
      "Kernels without an activation do not read its parameters, and maps without a derivative not whether it is theirs to take.",
    mutants: [
      [
        "if (code) (kernels.isFloat64 ? heap.f64 : heap.f32).set([slope, cap], plan.parameters / kernels.bytes);",
        "code → true",
      ],
      ["kernels.coefficients(plan, AFFINE, false, gamma, beta, 0, channels);", "false → true"],
      ["kernels.coefficients(plan, COMBINATION, false, 0, 0, 0, channelsOf(plan, x.tiles));", "false → true"],
    ],
  },
  {
    file: "src/ops/primitives.ts",
    reason: "Sums and dx take a dz that is computed before them, which costs time alone.",
    mutants: [
      [
        "export const fuses = (residual: unknown, activation: Activation): boolean => !residual && fusesBackward(activation);",
        "!residual && fusesBackward(activation) → false",
      ],
    ],
  },
  {
    file: "src/memory/operand.ts",
    reason: "The sizes of blocks and pieces, and whether a tile is loaded again, are matters of time alone.",
    mutants: [
      ["const block = this.kernels.pool && !this.#tiled ? plan.channels : plan.block;", "!this.#tiled → this.#tiled"],
      [
        "const block = this.kernels.pool && !this.#tiled ? plan.channels : plan.block;",
        "this.kernels.pool && !this.#tiled → false",
      ],
      [
        "const block = this.kernels.pool && !this.#tiled ? plan.channels : plan.block;",
        "this.kernels.pool && !this.#tiled → this.kernels.pool || !this.#tiled",
      ],
      [
        "const threads = this.kernels.pool?.threads ?? 1;",
        "this.kernels.pool?.threads ?? 1 → this.kernels.pool?.threads && 1",
      ],
      ["const threads = this.kernels.pool?.threads ?? 1;", "this.kernels.pool?.threads → this.kernels.pool.threads"],
      [
        "const stripes = Math.ceil(PIECE_BYTES / (plan.stripe * plan.columns * this.kernels.bytes)) * threads;",
        "Math.ceil(PIECE_BYTES / (plan.stripe * plan.columns * this.k… → Math.ceil(PIECE_BYTES / (plan.stripe * plan.columns * this.k…",
      ],
      [
        "const stripes = Math.ceil(PIECE_BYTES / (plan.stripe * plan.columns * this.kernels.bytes)) * threads;",
        "PIECE_BYTES / (plan.stripe * plan.columns * this.kernels.byt… → PIECE_BYTES * (plan.stripe * plan.columns * this.kernels.byt…",
      ],
      [
        "const stripes = Math.ceil(PIECE_BYTES / (plan.stripe * plan.columns * this.kernels.bytes)) * threads;",
        "plan.stripe * plan.columns * this.kernels.bytes → plan.stripe * plan.columns / this.kernels.bytes",
      ],
      [
        "const stripes = Math.ceil(PIECE_BYTES / (plan.stripe * plan.columns * this.kernels.bytes)) * threads;",
        "plan.stripe * plan.columns → plan.stripe / plan.columns",
      ],
      ["if (this.#loaded !== tile) {", "this.#loaded !== tile → true"],
      ["if (plan.planar || this.#tiled) return tiles;", "plan.planar || this.#tiled → true"],
      ["if (plan.planar || this.#tiled) return tiles;", "plan.planar || this.#tiled → true"],
      ["if (plan.planar || this.#tiled) return tiles;", "plan.planar || this.#tiled → plan.planar && this.#tiled"],
    ],
  },
  {
    file: "src/memory/operand.ts",
    reason: "A value that replaces itself is the same value.",
    mutants: [["if (replacement === value) continue;", "replacement === value → false"]],
  },
  {
    file: "src/memory/operand.ts",
    reason: "The shape was checked before, so that no error names it.",
    mutants: [
      [
        'const array = { data: newData(this.dtype, sizeOf("like", like.shape), like.data), shape: [...like.shape] };',
        '"like" → ""',
      ],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "The layer has what is absent here wherever this code runs, which the type system does not know.",
    mutants: [
      ["#verify({ targets = [], subBatches }: PreparedForward<AnyTensor>): void {", '[] → ["Stryker was here"]'],
      [
        "#commit({ targets = [] }: PreparedForward<AnyTensor>, subBatches: readonly SubBatchForward[]): void {",
        '[] → ["Stryker was here"]',
      ],
      [
        "if (tracked) this.#running?.update(into.mean, into.variance, (subBatches[i] as SubBatchForward).count);",
        "this.#running?.update → this.#running.update",
      ],
      ["into.mean.set(this.#running?.mean ?? []);", '[] → ["Stryker was here"]'],
      ["into.mean.set(this.#running?.mean ?? []);", "this.#running?.mean → this.#running.mean"],
      ["invStdOf(this.#running?.variance ?? [], this.#options.epsilon, into.invStd);", '[] → ["Stryker was here"]'],
      [
        "invStdOf(this.#running?.variance ?? [], this.#options.epsilon, into.invStd);",
        "this.#running?.variance → this.#running.variance",
      ],
      [
        "const perSample = record.subBatches[0]?.conditional?.perSample;",
        "record.subBatches[0]?.conditional → record.subBatches[0].conditional",
      ],
      [
        "const parameters = record.subBatches[0]?.conditional ?? { gamma: this.#gamma, beta: this.#beta };",
        "record.subBatches[0]?.conditional → record.subBatches[0].conditional",
      ],
      [
        'return this.#isRecalibrating && mode === "train" && this.#running?.estimator === "population";',
        "this.#running?.estimator → this.#running.estimator",
      ],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "A copy has the same vectors as its original, so that both are there or neither.",
    mutants: [
      ["if (this.#gamma) copy.#gamma?.set(this.#gamma);", "this.#gamma → true"],
      ["if (this.#gamma) copy.#gamma?.set(this.#gamma);", "copy.#gamma?.set → copy.#gamma.set"],
      ["if (this.#beta) copy.#beta?.set(this.#beta);", "this.#beta → true"],
      ["if (this.#beta) copy.#beta?.set(this.#beta);", "copy.#beta?.set → copy.#beta.set"],
      ["if (this.#running) copy.#running?.copyFrom(this.#running);", "this.#running → true"],
      [
        "if (this.#running) copy.#running?.copyFrom(this.#running);",
        "copy.#running?.copyFrom → copy.#running.copyFrom",
      ],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason:
      "A call that could repeat the one before is prepared anew, or buffers are made anew, which costs time alone.",
    mutants: [
      ["if (own(this).#saved) this.#used.isKept = true;", "own(this).#saved → true"],
      ["): PreparedForward<T> | undefined {", "{ const { latest } = this.#spare; const { residual, out } = … → {}"],
      [
        "if (latest?.mode !== mode || !isPreparedFor(latest.prepared, x, residual, out)) return undefined;",
        "latest?.mode !== mode || !isPreparedFor(latest.prepared, x, … → true",
      ],
      [
        "if (terms.gamma !== gamma || terms.beta !== beta) return undefined;",
        "terms.gamma !== gamma || terms.beta !== beta → true",
      ],
      [
        "if (latest?.prepared === prepared && latest.saved?.subBatches === subBatches && !latest.saved.verify)",
        "latest?.prepared === prepared && latest.saved?.subBatches ==… → false",
      ],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "Without running statistics, or with given ones, there is nothing to update.",
    mutants: [
      [
        'const updates = mode === "train" && prepared.targets !== undefined && this.#running !== null;',
        "prepared.targets !== undefined → true",
      ],
      [
        'const updates = mode === "train" && prepared.targets !== undefined && this.#running !== null;',
        "this.#running !== null → true",
      ],
      ["if (updates) this.#commit(prepared, subBatches);", "updates → true"],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "The mode that is assigned is never undefined here, so the default is not taken.",
    mutants: [['own(this).#mode = modeOption(mode ?? null, "train");', '"train" → ""']],
  },
  {
    file: "src/layer/sync-batch-norm.ts",
    reason:
      "Options that are as they were are assigned again, and a call that is over is waited for by a turn of the event loop, which costs time alone.",
    mutants: [
      ["if (now === agreed) return commit();", "now === agreed → false"],
      ["const over = () => {", "{ if (this.#call === call) this.#call = undefined; } → {}"],
      ["if (this.#call === call) this.#call = undefined;", "this.#call === call → true"],
      ["if (this.#call === call) this.#call = undefined;", "this.#call === call → this.#call !== call"],
      ["if (this.#call === call) this.#call = undefined;", "this.#call === call → false"],
    ],
  },
  {
    file: "src/layer/sync-batch-norm.ts",
    reason: "Only the checks of this preparation count, which are the same with and without parameters.",
    mutants: [
      [
        "prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);",
        "{ gamma: this.gamma !== null, beta: this.beta !== null } → {}",
      ],
      [
        "prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);",
        "this.gamma !== null → true",
      ],
      [
        "prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);",
        "this.gamma !== null → false",
      ],
      [
        "prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);",
        "this.gamma !== null → this.gamma === null",
      ],
      [
        "prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);",
        "this.beta !== null → true",
      ],
      [
        "prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);",
        "this.beta !== null → false",
      ],
      [
        "prepareBackward(dy, own, { gamma: this.gamma !== null, beta: this.beta !== null }, complete);",
        "this.beta !== null → this.beta === null",
      ],
    ],
  },
  {
    file: "src/layer/sync-batch-norm.ts",
    reason: "All ranks send the same constant, which no message shows.",
    mutants: [
      [
        'const { all, values } = yield* this.#exchange(this.#header("backward", "batch", forward), shard);',
        '"batch" → ""',
      ],
    ],
  },
  {
    file: "src/layer/sync-batch-norm.ts",
    reason: "Behind the last rank's numbers there is nothing to add.",
    mutants: [
      [
        "for (let start = width + values; start < all.length; start += width) addTo(sums, all.subarray(start));",
        "start < all.length → start <= all.length",
      ],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason: "A forward has at least one sub-batch, which the type system does not know.",
    mutants: [
      ["if (others.length || first?.conditional || first?.r || first?.mixture)", "first?.r → first.r"],
      [
        "if (others.length || first?.conditional || first?.r || first?.mixture)",
        "first?.conditional → first.conditional",
      ],
      ["if (others.length || first?.conditional || first?.r || first?.mixture)", "first?.mixture → first.mixture"],
      [
        "const shape = subBatches[0]?.conditional?.perSample[parameter] ? [samples, channels] : [channels];",
        "subBatches[0]?.conditional → subBatches[0].conditional",
      ],
      ["if (subBatches[0]?.conditional) {", "subBatches[0]?.conditional → subBatches[0].conditional"],
      [
        'if (saved.subBatches[0]?.conditional) throw wrongValue("saved", "a forward without perSample", asIs("one with it"));',
        "saved.subBatches[0]?.conditional → saved.subBatches[0].conditional",
      ],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason: "The sums go through an array of their own, which costs time alone.",
    mutants: [
      [
        "gradient?.length === all && geometry.length && !accumulate ? gradient : new Float64Array(all);",
        "gradient?.length === all && geometry.length && !accumulate → false",
      ],
      ["if (sums === gradient) return;", "sums === gradient → false"],
      [
        "if (!accumulate && sums.length === gradient.length) {",
        "!accumulate && sums.length === gradient.length → false",
      ],
      [
        "if (!accumulate && sums.length === gradient.length) {",
        "{ copyRange(sums, 0, gradient, 0, sums.length); return; } → {}",
      ],
      [
        "const sums = dGamma || dBeta ? sumsFor(saved, accumulate, dGamma, dBeta) : undefined;",
        "dGamma || dBeta → true",
      ],
      [
        "const request = { dx, sums: sums !== undefined, fused, activated, alone: subBatches.length === 1, joint };",
        "sums !== undefined → true",
      ],
      [
        "const request = { dx, sums: sums !== undefined, fused, activated, alone: subBatches.length === 1, joint };",
        "subBatches.length === 1 → false",
      ],
      ["const sums = before.sums && sumsFor(saved, false, dGamma, dBeta);", "false → true"],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason: "A call that is like the one before is prepared anew, which costs time alone.",
    mutants: [
      [
        "[dy, x, residual, options.dxOut, options.dResidualOut].every(isTensorInUse) &&",
        "[dy, x, residual, options.dxOut, options.dResidualOut].every… → false",
      ],
      [
        'Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");',
        'key === "dxOut" || key === "dResidualOut" → false',
      ],
      ['Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");', 'key === "dxOut" → false'],
      [
        'Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");',
        'key === "dResidualOut" → false',
      ],
      ['Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");', '"dxOut" → ""'],
      [
        'Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");',
        '(key) => key === "dxOut" || key === "dResidualOut" → () => undefined',
      ],
      [
        'Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");',
        'key === "dxOut" || key === "dResidualOut" → key === "dxOut" && key === "dResidualOut"',
      ],
      ['Object.keys(options).every((key) => key === "dxOut" || key === "dResidualOut");', '"dResidualOut" → ""'],
      ["): PreparedBackward<T> | undefined {", "{ const before = latest.get(saved); if (!before || before.dy… → {}"],
      [
        "if (!before || before.dy !== dy || before.dxOut !== dxOut || before.dResidualOut !== dResidualOut) return undefined;",
        "!before || before.dy !== dy || before.dxOut !== dxOut || bef… → true",
      ],
      ["if (repeatable && !before) latest.set(saved, prepared);", "repeatable && !before → false"],
      [
        "const isRepeatable = (dy: AnyTensor, { x, residual }: ForwardRecord, options: BackwardOptions): boolean =>",
        "(dy: AnyTensor, { x, residual }: ForwardRecord, options: Bac… → () => undefined",
      ],
      ["if (repeatable && !before) latest.set(saved, prepared);", "!before → before"],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason:
      "The activation's derivative is taken by kernels of their own or by those of the sums, which is a matter of time alone.",
    mutants: [
      [
        "const fused = activation.code !== 0 && subBatches.every((part) => fusesSubBatch(dtype, residual, activation, part));",
        "activation.code !== 0 && subBatches.every((part) => fusesSub… → false",
      ],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason: "A typed array ignores what is written behind its end.",
    mutants: [["for (let c = 0; c < gradient.length; c++) {", "c < gradient.length → c <= gradient.length"]],
  },
  {
    file: "src/ops/backward.ts",
    reason: "Without dx and dResidual, what they would go to is not read.",
    mutants: [
      [
        "const nothing = { dx: false, dxOut: undefined, dResidual: false, dResidualOut: undefined, joint: undefined };",
        "{ dx: false, dxOut: undefined, dResidual: false, dResidualOu… → {}",
      ],
      [
        "const nothing = { dx: false, dxOut: undefined, dResidual: false, dResidualOut: undefined, joint: undefined };",
        "false → true",
      ],
      [
        "const nothing = { dx: false, dxOut: undefined, dResidual: false, dResidualOut: undefined, joint: undefined };",
        "false → true",
      ],
    ],
  },
  {
    file: "src/ops/per-sample.ts",
    reason:
      "Samples of one value per channel go through the maps of larger ones, or through one map more, which costs time alone.",
    mutants: [
      [
        "const isOfElements = ({ geometry }: SubBatchForward): boolean => geometry.count === geometry.samples;",
        "geometry.count === geometry.samples → false",
      ],
      ["if (isOfElements(subBatch)) {", "{ const last = residual ?? beta; // y may be the residual, a… → {}"],
      ["if (isOfElements(subBatch)) {", "isOfElements(subBatch) → false"],
      ["if (isOfElements(subBatch)) {", "{ if (into) writeElements(call, x, dz, subBatch, terms, into… → {}"],
      ["if (isOfElements(subBatch)) {", "isOfElements(subBatch) → false"],
      [
        "const z = residual || is16Bit(call.dtype) ? call.sharedScratch(x) : y;",
        "residual || is16Bit(call.dtype) → true",
      ],
      ["if (last || terms.activation.code || z !== y)", "last || terms.activation.code || z !== y → true"],
      ["if (gamma) normalizeSamples(call, dz, undefined, g, subBatch, plain, { gamma, beta: null });", "gamma → true"],
    ],
  },
  {
    file: "src/ops/per-sample.ts",
    reason: "Sums of gradients that nobody needs are computed, which costs time alone.",
    mutants: [
      [
        "backwardShared(call, x, g, { ...subBatch, terms }, plainRequest, subBatch.total > 0, undefined);",
        "subBatch.total > 0 → true",
      ],
      [
        "backwardShared(call, x, g, { ...subBatch, terms }, plainRequest, subBatch.total > 0, undefined);",
        "subBatch.total > 0 → subBatch.total >= 0",
      ],
      ["if (needed)", "needed → true"],
    ],
  },
  {
    file: "src/ops/per-sample.ts",
    reason: "The other vector, or all that this code looks at, is there whenever this one is.",
    mutants: [
      ["if (vector) for (let n = 0; n < samples; n++) data?.set(vector, n * channels);", "data?.set → data.set"],
      ["if (vector) for (let n = 0; n < samples; n++) data?.set(vector, n * channels);", "vector → true"],
      ["if (!r || !d) return { gamma, beta };", "!r || !d → !r && !d"],
    ],
  },
  {
    file: "src/ops/per-sample.ts",
    reason: "Nothing reads the shape of these vectors.",
    mutants: [["return data && { data, shape: [data.length] };", "[data.length] → []"]],
  },
  {
    file: "src/ops/per-sample.ts",
    reason: "A prior of no samples gives the batch's own statistics by the mixture, too.",
    mutants: [["if (samples === 0) return undefined;", "samples === 0 → false"]],
  },
  {
    file: "src/ops/per-sample.ts",
    reason: "The terms have no activation, so there is no derivative that the kernels could take.",
    mutants: [
      ["gradientSums(source, upstream, terms, false, sums),", "false → true"],
      ["const flow = { count: total, gammaVaries: total > 0, fused: false };", "false → true"],
    ],
  },
  {
    file: "src/ops/per-sample.ts",
    reason: "Constant statistics have no terms in which gamma could vary.",
    mutants: [
      ["const flow = { count: total, gammaVaries: total > 0, fused: false };", "total > 0 → true"],
      ["const flow = { count: total, gammaVaries: total > 0, fused: false };", "total > 0 → total >= 0"],
    ],
  },
  {
    file: "src/memory/transfer.ts",
    reason: "Short runs are copied by the engine's copy or by a loop, which is a matter of time alone.",
    mutants: [
      [
        "if (length < SHORT) for (let i = 0; i < length; i++) target[to + i] = source[from + i] as number;",
        "length < SHORT → false",
      ],
      [
        "if (length < SHORT) for (let i = 0; i < length; i++) target[to + i] = source[from + i] as number;",
        "length < SHORT → length <= SHORT",
      ],
      [
        "else target.set(length === source.length ? source : source.subarray(from, from + length), to);",
        "length === source.length → false",
      ],
    ],
  },
  {
    file: "src/memory/transfer.ts",
    reason: "The elements go through bits of their own instead of being converted in place, which costs time alone.",
    mutants: [
      ["if (this.#reaches(array, dtype))", "this.#reaches(array, dtype) → false"],
      ["if (this.#reaches(array, dtype))", "this.#reaches(array, dtype) → false"],
      [
        "#reaches(array: Bits, dtype: Dtype): boolean {",
        "{ return is16Bit(dtype) && array.buffer === this.#heap.u16.b… → {}",
      ],
      [
        "return is16Bit(dtype) && array.buffer === this.#heap.u16.buffer;",
        "is16Bit(dtype) && array.buffer === this.#heap.u16.buffer → false",
      ],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason:
      "Elements of tensors pass through room of their own as those of arrays do, which costs time and memory alone.",
    mutants: [
      [
        "this.#inPlace = value instanceof Tensor && !is16Bit(dtype);",
        "value instanceof Tensor && !is16Bit(dtype) → false",
      ],
      ["if (!this.#inPlace && this.#value)", "!this.#inPlace && this.#value → true"],
      ["if (!this.#inPlace && this.#value)", "!this.#inPlace && this.#value → !this.#inPlace || this.#value"],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason: "The shape of scratch is never looked at.",
    mutants: [
      [
        "const room = new Tensor(this.#heap, [this.#size], this.#size, dtype, this.#roomOfBlock.pointer);",
        "[this.#size] → []",
      ],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason: "A map by 1 and 0 changes no value, and costs time alone.",
    mutants: [
      ["if (!norm.gamma && !norm.beta) return;", "!norm.gamma && !norm.beta → false"],
      [
        "if (norm.gamma) normalize(dy.at(block, channels), undefined, spare.at(block, channels), { ...columns, beta: null });",
        "norm.gamma → true",
      ],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason: "The quotient of the channels and 0 is no whole number, which the same condition refuses.",
    mutants: [["if (!(Number.isInteger(count) && count > 0 && channels % count === 0))", "count > 0 → count >= 0"]],
  },
  {
    file: "src/ops/norms.ts",
    reason: "So many groups have statistics of 26 GB, for which there is no room.",
    mutants: [
      [
        // biome-ignore lint/suspicious/noTemplateCurlyInString: this is the code of a line
        'if (groups > MAX_CHANNELS) throw wrongValue("x.shape", `at most ${MAX_CHANNELS} groups or rows`, x.shape);',
        "groups > MAX_CHANNELS → groups >= MAX_CHANNELS",
      ],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason: "With one position per channel the two layouts are the same.",
    mutants: [
      ['const channelsLast = layout === "channels-last" && inner > 1;', "inner > 1 → true"],
      ['const channelsLast = layout === "channels-last" && inner > 1;', "inner > 1 → inner >= 1"],
    ],
  },
  {
    file: "src/ops/norms.ts",
    reason: "Sums of gradients that nobody needs are computed, which costs time alone.",
    mutants: [["const sums = dGamma || dBeta ? emptyGradientSums(channels) : undefined;", "dGamma || dBeta → true"]],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason:
      "A call that is like the one before is checked anew, or its buffers are not used again, which costs time alone.",
    mutants: [
      [
        "const isRepeatable = (x: AnyTensor, options: LayerForwardOptions): boolean =>",
        "(x: AnyTensor, options: LayerForwardOptions): boolean => Ten… → () => undefined",
      ],
      [
        "Tensor.is(x) && Object.keys(options).every((key) => REPEATABLE.includes(key));",
        "(key) => REPEATABLE.includes(key) → () => undefined",
      ],
      [
        "Tensor.is(x) && Object.keys(options).every((key) => REPEATABLE.includes(key));",
        "Tensor.is(x) && Object.keys(options).every((key) => REPEATAB… → false",
      ],
      [
        "buffers.latest = mode && { mode, prepared, saved: this.#saved };",
        "mode && { mode, prepared, saved: this.#saved } → true",
      ],
      [
        "buffers.latest = mode && { mode, prepared, saved: this.#saved };",
        "mode && { mode, prepared, saved: this.#saved } → false",
      ],
      [
        "buffers.latest = mode && { mode, prepared, saved: this.#saved };",
        "mode && { mode, prepared, saved: this.#saved } → mode || { mode, prepared, saved: this.#saved }",
      ],
      [
        "buffers.latest = mode && { mode, prepared, saved: this.#saved };",
        "{ mode, prepared, saved: this.#saved } → {}",
      ],
      [
        "if (terms.gamma !== gamma || terms.beta !== beta) return undefined;",
        "terms.gamma !== gamma → terms.gamma === gamma",
      ],
      ["isKept = false;", "false → true"],
      ["if (copy?.length === values.length) copy.set(values);", "copy?.length === values.length → false"],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason:
      "Another array of gamma comes from another forward in the same buffers, after which there is nothing to repeat.",
    mutants: [["if (terms.gamma !== gamma || terms.beta !== beta) return undefined;", "terms.gamma !== gamma → false"]],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "The running statistics are read again, or vectors are checked again, which costs time alone.",
    mutants: [
      [
        "if (!latest.prepared.batch) this.#runningStatistics(this.#spare.statistics(0));",
        "!latest.prepared.batch → true",
      ],
      [
        'if (this.#gamma && this.#gamma.length !== channels) checkVector("gamma", this.#gamma, channels, dtype);',
        "this.#gamma.length !== channels → true",
      ],
      [
        'if (this.#beta && this.#beta.length !== channels) checkVector("beta", this.#beta, channels, dtype);',
        "this.#beta.length !== channels → true",
      ],
      [
        'if (mean && mean.length !== channels) checkVector("runningMean", mean, channels, dtype);',
        "mean.length !== channels → true",
      ],
      [
        'if (variance && variance.length !== channels) checkVector("runningVariance", variance, channels, dtype);',
        "variance.length !== channels → true",
      ],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "A forward sets it, and without a forward there is an error before it is read.",
    mutants: [["#differentiated = false;", "false → true"]],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "The copy lies in the buffers by another name, which is read nowhere else.",
    mutants: [
      [
        'return { gamma: copy("gamma", gamma), beta: copy("beta", beta), conditional: undefined, activation };',
        '"beta" → ""',
      ],
    ],
  },
  {
    file: "src/ops/batch-norm.ts",
    reason: "The statistics of the batch take the first place.",
    mutants: [["const all: Statistics[] = joint ? [joint] : [];", '[] → ["Stryker was here"]']],
  },
  {
    file: "src/ops/batch-norm.ts",
    reason: "Errors that name the mode are of statistics of a batch.",
    mutants: [['const prepared = prepareForward(inputs, scaleAndShift, source, "frozen");', '"frozen" → ""']],
  },
  {
    file: "src/ops/primitives.ts",
    reason: "The rows are written once more, which costs time alone.",
    mutants: [
      ["if (!powers) write(rows);", "!powers → true"],
      ["if (powers) write(rows);", "powers → true"],
    ],
  },
  {
    file: "src/ops/primitives.ts",
    reason: "The channel behind the last one is summed once more, or has room and is not read, which costs time alone.",
    mutants: [
      [
        "for (let { begin } = channels; begin < channels.end; begin++) {",
        "begin < channels.end → begin <= channels.end",
      ],
      ["while (end < channels.end && isUnreliable(end)) end++;", "end < channels.end → end <= channels.end"],
    ],
  },
  {
    file: "src/layer/batch-norm.ts",
    reason: "A copy of beta that nothing reads costs time alone.",
    mutants: [
      [
        'name === "gamma" || activation.code ? this.#spare.copy(name, values) : values;',
        'name === "gamma" || activation.code → true',
      ],
    ],
  },
  {
    file: "src/ops/primitives.ts",
    reason: "All channels are looked at for statistics that are not finite, which costs time alone.",
    mutants: [
      ["let reliable = !weights && !sumsInF64(plan);", "!weights && !sumsInF64(plan) → false"],
      ["let reliable = !weights && !sumsInF64(plan);", "!weights → weights"],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason: "The copy goes onto itself, which costs time alone.",
    mutants: [
      [
        "if (dResidual && activated && dz !== dResidual) call.withOperands([dz, dResidual], saved.geometry, 0, copy);",
        "dz !== dResidual → true",
      ],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason: "Nothing overlaps a destination that is not there.",
    mutants: [
      ['if (dxOut) check("dxOut", dxOut);', "dxOut → true"],
      ['if (dResidualOut) check("dResidualOut", dResidualOut);', "dResidualOut → true"],
      ["if (!dGammaOut && !dBetaOut) return;", "!dGammaOut && !dBetaOut → false"],
    ],
  },
  {
    file: "src/ops/backward.ts",
    reason: "Without an activation the kernels take a derivative of 1, which costs time alone.",
    mutants: [
      [
        "const fused = activation.code !== 0 && subBatches.every((part) => fusesSubBatch(dtype, residual, activation, part));",
        "activation.code !== 0 && subBatches.every((part) => fusesSub… → false",
      ],
      [
        "const fused = activation.code !== 0 && subBatches.every((part) => fusesSubBatch(dtype, residual, activation, part));",
        "activation.code !== 0 → true",
      ],
    ],
  },
  {
    file: "src/ops/activation.ts",
    reason: "Without an activation the kernels take a derivative of 1, which costs time alone.",
    mutants: [
      [
        "export const fusesBackward = ({ code }: Activation): boolean => code !== 0 && code !== 3;",
        "code !== 0 → true",
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
