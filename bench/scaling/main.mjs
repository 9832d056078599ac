// npm run docs:scaling: times exchanges on this machine, carries them on to many ranks by the model, and writes the tables and the
// pictures of docs/results/scaling.md.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { createGroupMemory, createMessagePorts } from "../../dist/index.js";
import { environmentOf } from "../environment.mjs";
import { runWithOptions } from "../options.mjs";
import { replaceMarked } from "../report.mjs";
import { jitterHere, mergingHere } from "./here.mjs";
import { pictureOf } from "./picture.mjs";
import { bytesTable, exchangeTable, networksOf, shardTable, simulated, simulationTable, stepTable } from "./tables.mjs";

const HELP = `npm run docs:scaling -- [options]

Times the exchanges of synchronised batch norm here, on threads, under mpirun and between two hosts that it makes (as root), and
writes what the model makes of them. It needs test/mpi/install.sh.

  --quick      few samples: shows that everything works
  --out FILE   the document (default: docs/results/scaling.md); the picture goes beside it, as .svg
  --help       this text
`;

const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const RANK = here("rank.mjs");
const HOSTS = here("../../test/mpi/hosts.sh");
const EXAMPLE = here("../../examples/data-parallel/main.mjs");
const DOCUMENT = here("../../docs/results/scaling.md");

/** On two worker threads. */
function onThreads(samples, dataOf) {
  const threads = [0, 1].map(
    (rank) =>
      new Promise((resolve, reject) => {
        const worker = new Worker(RANK, { workerData: { rank, samples, ...dataOf(rank).data }, ...dataOf(rank).post });
        let result;
        worker.on("message", (message) => {
          result = message;
        });
        worker.on("error", reject);
        worker.on("exit", () => resolve(result));
      }),
  );
  return Promise.all(threads).then(([result]) => result);
}

function onShared(samples) {
  const memory = createGroupMemory(2, 2 ** 16);
  return onThreads(samples, () => ({ data: { memory } }));
}

function onPorts(samples) {
  const ports = createMessagePorts(2);
  return onThreads(samples, (rank) => ({ data: { ports: ports[rank] }, post: { transferList: ports[rank].ports } }));
}

function run(program, args) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: "utf8" });
  return { status, stdout: stdout ?? "", message: error?.message ?? stderr.trim() };
}

/** On two processes; undefined where `skip` is what the program ends with. */
function onProcesses(samples, [program, ...options], skip) {
  const folder = mkdtempSync(join(tmpdir(), "scaling-"));
  const file = join(folder, "times.json");
  try {
    const { status, message } = run(program, [...options, "-n", "2", process.execPath, RANK, file, String(samples)]);
    if (status === skip) {
      console.log(`left out: ${message}`);
      return undefined;
    }
    if (status !== 0) throw new Error(`${program} ended with ${status}: ${message}`);
    return JSON.parse(readFileSync(file, "utf8"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What the example prints of synchronised shards and shards by themselves, for batches of several sizes on four ranks. */
function trainings(quick) {
  return (quick ? [16] : [8, 16, 32, 64, 128]).map((batch) => {
    const args = [EXAMPLE, "--batch", String(batch), "--steps", quick ? "10" : "500"];
    const { status, stdout, message } = run(process.execPath, args);
    if (status !== 0) throw new Error(`the example ended with ${status}: ${message}`);
    const cells = (name) =>
      stdout
        .split("\n")
        .find((line) => line.startsWith(`| ${name}`))
        .split("|")
        .map((cell) => cell.trim());
    const [, , loss, accuracy] = cells("synchronised");
    const [, , ownLoss, ownAccuracy] = cells("each by its shard");
    return { shard: batch / 4, loss, accuracy, ownLoss, ownAccuracy };
  });
}

async function main({ quick, out }) {
  const samples = quick ? 3 : 31;
  const steps = quick ? 1 : 20;
  const mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe"];
  const measured = [
    { name: "threads, `sharedMemoryGroup`", ...(await onShared(samples)) },
    { name: "threads, `messagePortGroup`", ...(await onPorts(samples)) },
    { name: "processes, `mpiGroup`", ...onProcesses(samples, mpirun) },
    { name: "two hosts, `mpiGroup` over TCP", ...onProcesses(samples, [HOSTS], 77) },
  ].filter(({ rows }) => rows);
  const networks = networksOf(measured);
  const jitter = jitterHere(quick ? 50 : 2000);
  const merging = mergingHere(quick ? 50 : 1000);
  const runs = simulated({ networks, merging, jitter: jitter.seconds, steps });
  const { processor, engine, commit, date } = environmentOf({ run: quick ? "quick" : "full", peers: [] });
  const picture = out.replace(/\.md$/, ".svg");
  const parts = {
    environment: `${processor}, ${engine}; Open MPI ${run("mpirun", ["--version"]).stdout.match(/[\d.]+/)?.[0]}; commit ${commit}, ${date}.`,
    exchanges: exchangeTable(measured),
    steps: stepTable(measured, networks),
    bytes: bytesTable(networks, merging),
    simulation: `${simulationTable(runs)}\n\n${jitter.text}`,
    shards: shardTable(trainings(quick)),
    picture: `![Time of a step's exchanges and slowdown of a step, over ranks](${basename(picture)})`,
  };
  let text = readFileSync(DOCUMENT, "utf8");
  for (const [name, part] of Object.entries(parts)) text = replaceMarked(text, part, name);
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, text);
  writeFileSync(picture, pictureOf(networks, runs));
  console.log(Object.values(parts).join("\n\n"));
  console.log(`\nThe document is ${out}, the picture ${picture}.`);
}

await runWithOptions(HELP, DOCUMENT, main);
