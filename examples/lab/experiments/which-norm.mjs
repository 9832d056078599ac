// Batch, layer, group and weight norm and none, over batch sizes, each at the learning rate that serves it best.

import * as lab from "../common.mjs";
import { batches } from "../data.mjs";
import { batchNorm, groupNorm, layerNorm, weightNorm } from "../norms.mjs";
import { best, climb, decades, logarithmic } from "../sweep.mjs";

const UNITS = [64, 64];
/** Groups of 16 units, a size of groups that Wu & He try, too (table 3). */
const GROUPS = 4;
const SIZES = [2, 4, 8, 16, 32, 64, 128];
/** The batch size in which every rate is tried. Wu & He call it regular. */
const REGULAR = 32;
const SMALLEST = SIZES[0];
/** Training images. */
const TRAIN = 4096;
/** Training images by which weight norm is initialised. */
const INITIAL = 256;
/** Steps between two looks from outside. */
const PACE = 20;
/** Trainings that finding a rate takes where not every rate is tried: this is a guess, for the progress bar. */
const TYPICAL = 4;

const NORMS = [
  { ...lab.WITH, id: "batch", label: "batch norm", norm: batchNorm() },
  { id: "layer", label: "layer norm", color: 2, norm: layerNorm },
  { id: "group", label: `group norm, ${GROUPS} groups`, color: 3, norm: groupNorm(GROUPS) },
  { id: "weight", label: "weight norm", color: 4, norm: weightNorm },
  { ...lab.WITHOUT, id: "none", label: "none", norm: lab.normOf(false) },
];

const WU_HE = "Wu & He 2018";
const SALIMANS_KINGMA = "Salimans & Kingma 2016";

/** Points within which two errors count as equal. */
const TOLERANCE = 1;
/** Points of the accuracy within which a rate counts as about as good as the best. */
const NEAR = 5;

export default {
  id: "which-norm",
  title: "Batch, layer, group, weight norm or none: over batch sizes",
  text:
    "The same number of samples is learned in batches of 2 to 128, with batch, layer, group or weight norm, or with none, each at " +
    "the learning rate that suits it best. Watch where the lines of the test error separate, and which rates were chosen. " +
    "Wu & He say that the error of batch norm rises as batches shrink and that of group norm does not; Salimans & Kingma say that " +
    "weight norm speeds up learning.",
  method:
    `Networks have two hidden layers of ${UNITS[0]} units and start from the same weights. Their layers are dense, while Wu & He's ` +
    "are convolutional. Learning rates are chosen in the same way for every norm and seed, by the accuracy on validation images. " +
    `In batches of ${REGULAR}, every rate of the search is tried. For the other sizes the search starts from the rate of a ` +
    "neighbouring size, and moves on by the same factor until no neighbour of the best rate is better. Error and loss are those of " +
    "test images, which choose nothing. Where a claim says that one error rises, stays or is as good as another, errors that " +
    `differ by at most ${TOLERANCE} point count as equal. Small batches make more steps with the same samples. Batch norm is ` +
    "evaluated by its moving average, with momentum 0.1. Weight norm is initialised from data, as in section 3 of its paper, with " +
    `the same ${INITIAL} training images in every size.`,
  sources: [
    { text: `${WU_HE}, figure 1`, url: "https://arxiv.org/abs/1803.08494" },
    { text: `${SALIMANS_KINGMA}, sections 2 and 3`, url: "https://arxiv.org/abs/1602.07868" },
  ],
  guides: [lab.FAMILY, lab.SMALL_BATCHES],
  controls: [
    lab.count("samples", "Samples to learn in each training", 4096, SIZES.at(-1), 200_000),
    lab.number("from", "Lowest rate", 0.005, 1e-5, 1e3),
    lab.number("to", "Highest rate", 20.48, 1e-5, 1e4),
    lab.count(
      "points",
      "Rates in the search",
      13,
      3,
      61,
      `in batches of ${REGULAR}, from the lowest to the highest by one factor`,
    ),
    lab.count("heldOut", "Images to choose rates by", 2000, 100, 2900, "and as many others for the test"),
    lab.activation("relu"),
    lab.seed,
  ],
  charts: () => {
    const series = NORMS.map(({ id, label, color }) => ({ id, label, color }));
    const size = { label: "batch size", log: true };
    return [
      {
        ...{
          id: "error",
          title: "Test error",
          kind: "lines",
          x: size,
          y: { label: "test error (%)", log: true },
          series,
        },
        hint: "Each norm has the learning rate that was chosen for it. In large batches all make few steps.",
      },
      {
        ...{ id: "loss", title: "Test loss", kind: "lines", x: size, y: { label: "loss", log: true }, series },
        hint: "The loss of the same networks.",
      },
      {
        ...{ id: "rate", title: "The rate that was chosen", kind: "lines", x: size },
        ...{ y: { label: "learning rate", log: true }, series, hint: "Chosen by the accuracy on validation images." },
      },
      {
        ...{ id: "search", title: `The search in batches of ${REGULAR}`, kind: "lines" },
        ...{
          x: { label: "learning rate", log: true },
          y: { label: "validation accuracy (%)", range: [0, 100] },
          series,
        },
        hint: "If the plateau is wide, the rate matters little. A network that diverged has 0 %.",
      },
    ];
  },

  *run({ samples, from, to, points, heldOut, activation, seed }, data) {
    const { test: others, ...dataset } = lab.datasetOf("digits", data, { seed, train: TRAIN, test: 2 * heldOut });
    const part = (begin, end) => ({
      images: others.images.subarray(begin * dataset.features, end * dataset.features),
      labels: others.labels.subarray(begin, end),
    });
    const [validation, test] = [part(0, heldOut), part(heldOut, 2 * heldOut)];
    const [{ x: initial }] = batches(dataset.train, INITIAL, 1);

    const rates = logarithmic(from, to, points);
    const factor = (to / from) ** (1 / (points - 1));
    const next = (rate, by) => Number((rate * factor ** by).toPrecision(3));
    // from the regular size outwards, so that each search starts from a neighbour's rate
    const order = [...SIZES.filter((s) => s >= REGULAR), ...SIZES.filter((s) => s < REGULAR).reverse()];
    const budgetOf = (size) => Math.ceil(samples / size) * (size === REGULAR ? points : TYPICAL);
    const total = NORMS.length * SIZES.reduce((sum, size) => sum + budgetOf(size), 0);

    let done = 0;
    let trainings = 0;

    /** Trains at a rate, without going beyond `end` in the work that is done. */
    function* train(norm, size, end, rate) {
      const network = lab.networkFor(dataset, UNITS, { norm, deviation: lab.scaled(1), seed, activation });
      network.initialize(initial);
      trainings++;
      let finite = true;
      for (const { step, x, labels } of batches(dataset.train, size, Math.ceil(samples / size))) {
        finite = Number.isFinite(network.step(x, labels, rate).loss);
        // nothing comes back from what is not a number
        if (!finite) break;
        if (step % PACE !== 0) continue;
        done = Math.min(done + PACE, end);
        yield { done, total };
      }
      const diverged = { accuracy: 0, loss: Number.POSITIVE_INFINITY };
      const [chosenBy, result] = [validation, test].map((set) => (finite ? lab.evaluate(network, set) : diverged));
      network.dispose();
      return { rate, accuracy: chosenBy.accuracy, error: 100 - result.accuracy, loss: result.loss };
    }

    for (const { id, norm } of NORMS) {
      /** The chosen training of every size. */
      const chosen = new Map();
      for (const size of order) {
        const end = done + budgetOf(size);
        const attempt = (rate) => train(norm, size, end, rate);
        if (size === REGULAR)
          for (const rate of rates) {
            const tried = yield* attempt(rate);
            if (!(tried.accuracy <= chosen.get(size)?.accuracy)) chosen.set(size, tried);
            yield { done, total, append: { search: { [id]: [[rate, tried.accuracy]] } } };
          }
        else {
          const { rate } = chosen.get(size / 2) ?? chosen.get(size * 2);
          chosen.set(size, yield* climb(attempt, rate, next));
        }
        done = end;
        const sizes = [...chosen.keys()].sort((a, b) => a - b);
        const points = (name) => ({ [id]: sizes.map((s) => [s, chosen.get(s)[name]]) });
        yield {
          ...{ done, total, facts: { trainings } },
          replace: { error: points("error"), loss: points("loss"), rate: points("rate") },
        };
      }
    }
  },

  claims: (runs) => {
    const error = ({ charts }, norm, size) => charts.error[norm].find(([x]) => x === size)?.[1] ?? Number.NaN;
    const [small, regular] = [SMALLEST, REGULAR].map((size) => `error in batches of ${size}, %`);
    const bySize = (norm) => (run) => ({
      [small]: error(run, norm, SMALLEST),
      [regular]: error(run, norm, REGULAR),
    });
    const byNorm = (size, first, second) => (run) => ({
      [`error in batches of ${size}, %, ${first}`]: error(run, first, size),
      [second]: error(run, second, size),
    });
    const isLower = (m) => {
      const [first, second] = Object.values(m);
      return first < second;
    };
    const range = ({ charts }, norm) => {
      const points = charts.search[norm];
      return decades(points, best(points) - NEAR);
    };
    return [
      lab.judge(runs, {
        claim: "The error of batch norm rises as batches shrink.",
        source: `${WU_HE}, figure 1`,
        measure: bySize("batch"),
        holds: (m) => m[small] > m[regular] + TOLERANCE,
      }),
      lab.judge(runs, {
        claim: "The error of group norm does not rise as batches shrink.",
        source: `${WU_HE}, figure 1`,
        measure: bySize("group"),
        holds: (m) => m[small] <= m[regular] + TOLERANCE,
      }),
      lab.judge(runs, {
        claim: `In batches of ${SMALLEST}, group norm has a lower error than batch norm.`,
        source: `${WU_HE}, table 2`,
        measure: byNorm(SMALLEST, "group", "batch"),
        holds: isLower,
      }),
      lab.judge(runs, {
        claim: `In batches of ${REGULAR}, group norm is as good as batch norm, within a point.`,
        source: `${WU_HE}, table 1`,
        measure: byNorm(REGULAR, "group", "batch"),
        holds: (m) => {
          const [group, batch] = Object.values(m);
          return group <= batch + TOLERANCE;
        },
      }),
      lab.judge(runs, {
        claim: `In batches of ${REGULAR}, group norm has a lower error than layer norm.`,
        source: `${WU_HE}, table 1`,
        measure: byNorm(REGULAR, "group", "layer"),
        holds: isLower,
      }),
      lab.judge(runs, {
        claim: `Weight norm learns faster than no norm: after the same samples in batches of ${REGULAR}, its error is lower.`,
        source: `${SALIMANS_KINGMA}, 5.1`,
        measure: byNorm(REGULAR, "weight", "none"),
        holds: isLower,
      }),
      lab.judge(runs, {
        claim: "Weight norm does not need large batches: its error does not rise as they shrink.",
        source: `${SALIMANS_KINGMA}, 1`,
        measure: bySize("weight"),
        holds: (m) => m[small] <= m[regular] + TOLERANCE,
      }),
      lab.judge(runs, {
        claim: "Weight norm works over a wider range of learning rates than no norm.",
        source: `${SALIMANS_KINGMA}, 2.1`,
        measure: (run) => ({
          [`decades within ${NEAR} points of the best accuracy, weight`]: range(run, "weight"),
          none: range(run, "none"),
          batch: range(run, "batch"),
        }),
        holds: (m) => Object.values(m)[0] > m.none,
      }),
    ];
  },
};
