// One batch over many ranks: trains the demo's network data-parallel, with batch norm synchronised and not, and prints both beside
// a single process. Ranks are worker threads, or the processes of mpirun. `--help` explains the options.

import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { createGroupMemory } from "batchnorm-wasm";
import { mpiGroup } from "batchnorm-wasm/mpi";
import { markdownTable } from "markdown-table";
import { isWhole, number, optionsOrExit, stringOption } from "../command-line.mjs";
import { loadDigits } from "../figure1/digits.mjs";
import { ALONE, train, trainBoth } from "./train.mjs";

const DEFAULTS = { ranks: "4", steps: "500", batch: "10", "learning-rate": "0.1", seed: "1" };

const HELP = `Usage: node examples/data-parallel/main.mjs [options]
       mpirun -n 4 node examples/data-parallel/main.mjs [options]

Trains the demo's network on shards of every batch, one for each rank, with batch norm over the whole batch (SyncBatchNorm)
and over each rank's shard, and compares both with a single process. It needs dist/ (npm run build).

Options:
  --ranks <n>            worker threads; under mpirun, ranks are its processes   (default ${DEFAULTS.ranks})
  --steps <n>            training steps                                          (default ${DEFAULTS.steps})
  --batch <n>            samples of all ranks together, two a rank at least      (default ${DEFAULTS.batch})
  --learning-rate <x>                                                            (default ${DEFAULTS["learning-rate"]})
  --seed <n>             seed of weights, data split and data order              (default ${DEFAULTS.seed})
  --help                 print this and exit`;

/** What mpirun says of the group before there is one. */
const mpiRanks = process.env.OMPI_COMM_WORLD_SIZE;

/** Throws an Error with a message for the user if an option is unknown or its value makes no sense. */
function parseOptions(args) {
  const known = Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, stringOption(value)]));
  const { values } = parseArgs({ args, options: { ...known, help: { type: "boolean", default: false } } });
  const whole = (name, from, to) =>
    number(`--${name}`, values[name], `a whole number from ${from} to ${to}`, (n) => isWhole(n, from, to));
  const ranks = mpiRanks ? Number(mpiRanks) : whole("ranks", 1, 64);
  return {
    help: values.help,
    ranks,
    steps: whole("steps", 1, 1e6),
    batch: whole("batch", 2 * ranks, 8000),
    learningRate: number("--learning-rate", values["learning-rate"], "a number above 0", (n) => n > 0 && n < Infinity),
    seed: whole("seed", 0, 2 ** 32 - 1),
  };
}

/** Trains on worker threads. */
function onThreads(ranks, options, digits) {
  const memory = createGroupMemory(ranks, 2 ** 15);
  const threads = Array.from({ length: ranks }, (_, rank) => {
    const worker = new Worker(new URL("./worker.mjs", import.meta.url), {
      workerData: { memory, rank, digits, options },
    });
    return new Promise((resolve, reject) => {
      let results;
      worker.on("message", (message) => {
        results = message;
      });
      worker.on("error", reject);
      worker.on("exit", (code) =>
        code === 0 ? resolve(results) : reject(new Error(`rank ${rank} ended with ${code}`)),
      );
    });
  });
  return Promise.all(threads).then(([results]) => results);
}

/** Trains as one of mpirun's processes. */
async function onProcesses(options, digits) {
  const group = await mpiGroup();
  const results = trainBoth(options, group, digits);
  group.close();
  return group.rank === 0 ? results : undefined;
}

const percent = (share) => (100 * share).toFixed(1);

function table(single, results) {
  const rows = results.map(({ synchronized, accuracies, unlike, ...result }) => {
    const range = [Math.min, Math.max].map((f) => percent(f(...accuracies)));
    const difference = result.parameters.reduce((most, p, i) => Math.max(most, Math.abs(p - single.parameters[i])), 0);
    return [
      synchronized ? "synchronised" : "each by its shard",
      result.loss.toFixed(4),
      `${range[0] === range[1] ? range[0] : range.join(" to ")} %`,
      difference.toExponential(1),
      String(unlike),
      result.milliseconds.toFixed(2),
      `${(100 * result.waiting).toFixed(0)} %`,
    ];
  });
  const first = [
    single.loss.toFixed(4),
    `${percent(single.accuracy)} %`,
    "–",
    "–",
    single.milliseconds.toFixed(2),
    "–",
  ];
  return markdownTable(
    [
      ["Batch norm", "Loss", "Accuracy", "Off by", "Unlike", "ms a step", "Waiting"],
      ["a single process", ...first],
      ...rows,
    ],
    { align: ["l", "r", "r", "r", "r", "r", "r"] },
  );
}

const NOTES = [
  "Loss: mean over the last tenth of the steps. Accuracy: on 2,000 held-out digits, by each rank's running statistics.",
  "Off by: the largest difference of a parameter from the single process's. Unlike: numbers, of all parameters and running",
  "statistics of all ranks, that are not bit for bit those of rank 0. Waiting: share of a step in sums over the group.",
];

async function run({ ranks, ...options }) {
  const digits = loadDigits(options.seed);
  const results = await (mpiRanks ? onProcesses(options, digits) : onThreads(ranks, options, digits));
  if (!results) return;
  const single = train(options, ALONE, digits);
  console.log(`${ranks} ranks, ${mpiRanks ? "processes of mpirun" : "worker threads"}; batches of ${options.batch}\n`);
  console.log(`${table(single, results)}\n\n${NOTES.join("\n")}`);
}

const options = optionsOrExit(parseOptions);
if (options.help) console.log(HELP);
else await run(options);
