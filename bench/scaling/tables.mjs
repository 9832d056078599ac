// Tables of docs/results/scaling.md: what was measured, and what the model makes of it.

import { markdownTable } from "markdown-table";
import { linearRegression } from "simple-statistics";
import { random } from "../data.mjs";
import { digits } from "../tables.mjs";
import { exchangesOf, MPI, mergeSeconds, simulate, stepCost, stepSeconds } from "./model.mjs";

const RANKS = [2, 4, 8, 16, 32, 64, 256, 1000];

/** Networks that are not here: round numbers of such networks, not measurements. Ranks are in an `mpiGroup`. */
const ASSUMED = [
  { name: "10 GbE", alpha: 30e-6, beta: 1 / 1.25e9, transport: MPI },
  { name: "100G InfiniBand", alpha: 2e-6, beta: 1 / 12.5e9, transport: MPI },
];

const table = (header, rows) =>
  markdownTable([header, ...rows], { align: ["l", ...Array(header.length - 1).fill("r")] });

/** α and β of what was measured: the shortest gather, and the slope beyond, where two ranks send one message each. */
function fit({ name, rows }) {
  const { m } = linearRegression(rows.map(({ bytes, gather }) => [bytes, 1e-6 * gather]));
  const transport = name.includes("mpiGroup") ? MPI : undefined;
  return { name: `here: ${name}`, alpha: 1e-6 * rows[0].gather, beta: m, transport };
}

/** What the model knows: the networks that were measured, the most like a network last, and those assumed. */
export const networksOf = (measured) => [...measured.map(fit), ...ASSUMED];

export const exchangeTable = (measured) =>
  table(
    ["µs", ...measured[0].rows.map(({ bytes }) => (bytes < 1e5 ? `${bytes} B` : `${Math.round(bytes / 1e3)} kB`))],
    measured.flatMap(({ name, rows }) =>
      ["gather", "sum"].map((kind) => [`${name}: ${kind}`, ...rows.map((row) => digits(row[kind]))]),
    ),
  );

/** A step of ResNet-50 on two ranks, measured and by the model. */
export const stepTable = (measured, networks) =>
  table(
    ["two ranks", "α, µs", "1/β, GB/s", "a step by the model, ms", "measured, ms"],
    measured.map(({ name, step }, i) => {
      const { alpha, beta } = networks[i];
      const model = stepSeconds(exchangesOf(networks[i].transport), "tree", 2, networks[i]);
      return [name, digits(1e6 * alpha), digits(1e-9 / beta), digits(1e3 * model), digits(1e-3 * step)];
    }),
  );

/** Bytes, messages and milliseconds of a step's exchanges. */
export function bytesTable(networks, merging) {
  const [ours, ...assumed] = networks.slice(-1 - ASSUMED.length);
  const header = ["ranks", "MB a rank sends: ring", "tree", "messages: ring", "tree", "ms, merging"];
  const times = [ours, ...assumed].flatMap(({ name }) => [`ms, ${name}: ring`, "tree"]);
  const rows = RANKS.map((ranks) => {
    const costs = ["ring", "tree"].map((algorithm) => stepCost(exchangesOf(MPI), algorithm, ranks));
    const seconds = [ours, ...assumed].flatMap((network) =>
      ["ring", "tree"].map((algorithm) => stepSeconds(exchangesOf(network.transport), algorithm, ranks, network)),
    );
    return [
      String(ranks),
      ...costs.map(({ bytes }) => digits(1e-6 * bytes)),
      ...costs.map(({ messages }) => String(messages)),
      digits(1e3 * mergeSeconds(exchangesOf(MPI), ranks, merging)),
      ...seconds.map((s) => digits(1e3 * s)),
    ];
  });
  return table([...header, ...times], rows);
}

/** Seconds that a step's computation takes. */
const COMPUTE = [0.2, 2];
const PARTS = [8, 32, Number.POSITIVE_INFINITY];

/** How much longer steps take for synchronising batch norm, in parts of so many ranks, in all networks that are assumed. */
export function simulated({ networks, merging, jitter, steps }) {
  return networks.slice(-ASSUMED.length).flatMap((network) =>
    COMPUTE.flatMap((compute) =>
      RANKS.flatMap((ranks) => {
        // the same jitter for all
        const run = (part) =>
          simulate({ ranks, part, compute, jitter, network: { ...network, merging }, steps, next: random(ranks) });
        const alone = run(1);
        return PARTS.filter((part) => part === Number.POSITIVE_INFINITY || part < ranks).map((part) => {
          const result = run(Math.min(part, ranks));
          return { network: network.name, compute, ranks, part, ...result, slowdown: result.seconds / alone.seconds };
        });
      }),
    ),
  );
}

export const partName = (part) => (part === Number.POSITIVE_INFINITY ? "all ranks" : `parts of ${part}`);

export const simulationTable = (runs) =>
  table(
    ["network", "ranks", "over", "exchanges, ms", "waiting, ms", "a step takes"],
    runs
      .filter(({ compute, ranks }) => compute === COMPUTE[0] && [8, 64, 1000].includes(ranks))
      .map(({ network, ranks, part, exchanging, waiting, slowdown }) => [
        network,
        String(ranks),
        partName(part),
        digits(1e3 * exchanging),
        digits(1e3 * waiting),
        `${slowdown.toFixed(2)}×`,
      ]),
  );

export const shardTable = (trainings) =>
  table(
    ["samples of a shard", "loss, synchronised", "by shards", "accuracy, synchronised", "by shards"],
    trainings.map(({ shard, loss, accuracy, ownLoss, ownAccuracy }) => [
      String(shard),
      loss,
      ownLoss,
      accuracy,
      ownAccuracy,
    ]),
  );
