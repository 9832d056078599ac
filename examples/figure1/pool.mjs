// Trains independent runs on two worker threads: a worker that is done takes the next run. Results come in the order
// of the runs, whichever thread they come from.

import { Worker } from "node:worker_threads";

const THREADS = 2;

/**
 * @param {import("./train.mjs").Run[]} runs
 * @param {ReturnType<typeof import("./digits.mjs").loadDigits>} digits
 * @param {(steps: number) => void} onProgress
 * @returns {Promise<import("./train.mjs").Result[]>}
 */
export async function trainAll(runs, digits, onProgress) {
  const results = [];
  const queue = runs.entries();
  const work = () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(new URL("./worker.mjs", import.meta.url), { workerData: digits });
      let index;
      const next = () => {
        const { done, value } = queue.next();
        if (done) {
          resolve();
          worker.terminate();
          return;
        }
        index = value[0];
        worker.postMessage(value[1]);
      };
      worker.on("error", reject);
      worker.on("exit", (code) =>
        reject(new Error(`a worker stopped with exit code ${code} before its work was done`)),
      );
      worker.on("message", ({ steps, result }) => {
        if (!result) return onProgress(steps);
        results[index] = result;
        next();
      });
      next();
    });
  await Promise.all(Array.from({ length: THREADS }, work));
  return results;
}
