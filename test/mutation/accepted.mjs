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
