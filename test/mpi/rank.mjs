// What a rank does in mpi.test.ts: `rank.mjs <scenario> <folder> [<data as JSON>]`. It leaves its result as a file in the folder,
// since mpirun mixes what ranks print.

import { renameSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { SyncBatchNorm } from "batchnorm-wasm";
import { mpiGroup } from "batchnorm-wasm/mpi";

const [scenario, folder, json = "null"] = process.argv.slice(2);
const data = JSON.parse(json);
const group = await mpiGroup({ timeoutMs: data?.timeoutMs ?? 20_000 });
const { rank, size } = group;

/** Whole or not at all, whenever the others or mpirun end this process. */
function leave(result) {
  const file = join(folder, `${rank}.json`);
  writeFileSync(`${file}.part`, JSON.stringify({ rank, size, host: hostname(), ...result }));
  renameSync(`${file}.part`, file);
}

function thrownBy(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
}

const failure = (call) => {
  const { name, code, message } = thrownBy(call) ?? {};
  return { name, code, message };
};

const SCENARIOS = {
  train() {
    const bn = new SyncBatchNorm(data.channels, { group });
    const [before, own] = [data.sizes.slice(0, rank).reduce((a, b) => a + b, 0), data.sizes[rank]];
    const steps = data.steps.map((all) => {
      const part = all.slice(before * data.channels, (before + own) * data.channels);
      const shard = { data: Float32Array.from(part), shape: [own, data.channels] };
      const y = bn.forward(shard);
      const { dx } = bn.backward(shard);
      return { y: [...y.data], dx: [...dx.data] };
    });
    return { steps, mean: [...bn.runningMean], variance: [...bn.runningVariance] };
  },

  sums() {
    let wrong = 0;
    for (const length of [1, 7, 100, 5000, 3]) {
      for (let i = 0; i < 50; i++) {
        const values = Float64Array.from({ length }, (_, k) => rank * k + i);
        group.sum(values);
        for (const [k, value] of values.entries()) if (value !== (size * (size - 1) * k) / 2 + size * i) wrong++;
      }
    }
    // no two orders of these have the same sum
    const rounded = Float64Array.from({ length: 1000 }, (_, k) => Math.sin(1 + k + 1000 * rank) * 10 ** (k % 7));
    group.sum(rounded);
    group.sum(new Float64Array());
    const all = new Float64Array(size * 50);
    group.gather(
      Float64Array.from({ length: 50 }, (_, k) => 100 * rank + k),
      all,
    );
    for (const [i, value] of all.entries()) if (value !== 100 * Math.floor(i / 50) + (i % 50)) wrong++;
    return { wrong, rounded: [...rounded] };
  },

  /** Even and odd ranks by themselves. */
  parts() {
    const part = group.split(rank % 2);
    const ranks = Float64Array.of(rank);
    part.sum(ranks);
    const all = Float64Array.of(rank);
    group.sum(all);
    const color = failure(() => group.split(-1));
    part.close(); // ends nothing
    return { part: [part.rank, part.size, ranks[0]], all: all[0], color: color.message };
  },

  errors() {
    const bn = new SyncBatchNorm(2, { group });
    const shard = (...values) => ({ data: Float32Array.from(values), shape: [values.length / 2, 2] });
    const nonFinite = failure(() => bn.forward(shard(1, 2, 3, rank === size - 1 ? Number.NaN : 4)));
    const oneValue = failure(() => bn.forward(rank === 0 ? shard(1, 2) : shard()));
    const refused = failure(() => bn.forward(rank === 0 ? { ...shard(1, 2), shape: [1, 3] } : shard(1, 2)));
    const state = [bn.batchesTracked, ...bn.runningMean, ...bn.runningVariance];
    bn.forward(shard(1, 2, 3, 4));
    return { nonFinite, oneValue, refused, state, batches: bn.batchesTracked };
  },

  /** Rank 1 is killed after the first step. */
  killed() {
    const bn = new SyncBatchNorm(2, { group });
    const x = { data: Float32Array.of(1, 2, 3, 4), shape: [2, 2] };
    bn.forward(x);
    if (rank === 1) process.kill(process.pid, "SIGKILL");
    const lost = thrownBy(() => bn.backward(x));
    const { name, code, message } = lost;
    // the same error, since the group remembers
    const again = thrownBy(() => bn.forward(x)) === lost;
    return { name, code, message, again, batches: bn.batchesTracked };
  },

  /** Rank 1 says nothing to the odd ranks; the even ones do not mind. */
  async stalledPart() {
    const part = group.split(rank % 2);
    if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 60_000));
    const lost = thrownBy(() => part.sum(new Float64Array(1)));
    leave({ code: lost?.code, again: lost && thrownBy(() => group.sum(new Float64Array(1))) === lost });
    if (!lost) return {};
    group.close(); // waits for nobody now
    throw lost;
  },

  /** Ranks whose exchanges differ in length, in kind and in channels. */
  unequal() {
    const messages = [];
    const attempt = (call) => {
      const { code, message } = failure(call);
      messages.push(`${code} ${message}`);
    };
    attempt(() => group.sum(new Float64Array(rank === 1 ? 1000 : 1)));
    attempt(() => {
      if (rank === 1) group.gather(new Float64Array(4), new Float64Array(4 * size));
      else group.sum(new Float64Array(4));
    });
    const bn = [300, 2].map((channels) => new SyncBatchNorm(channels, { group }))[rank === 2 ? 1 : 0];
    attempt(() => bn.forward({ data: new Float32Array(4 * bn.channels), shape: [4, bn.channels] }));
    const values = Float64Array.of(rank);
    group.sum(values);
    return { messages, sum: values[0], batches: bn.batchesTracked };
  },

  /** Rank 1 comes, and says nothing. */
  async stalled() {
    if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 60_000));
    const lost = failure(() => group.sum(new Float64Array(3)));
    leave({ lost });
    throw new Error(lost?.message ?? "nothing was lost");
  },

  twice() {
    group.close();
    group.close();
    return mpiGroup().then(
      () => ({}),
      ({ code, message }) => ({ code, message }),
    );
  },
};

leave(await SCENARIOS[scenario]());
group.close();
