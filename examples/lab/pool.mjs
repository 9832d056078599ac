// Runs independent jobs on two worker threads: a worker that is done takes the next job. Results come in the order of the
// jobs, whichever thread they come from.
//
// A worker is sent one job after the other; it answers with { progress } as often as it likes, then with { result }.

import { Worker } from "node:worker_threads";

const THREADS = 2;

/**
 * @param {object} options
 * @param {URL} options.worker
 * @param {unknown} options.workerData
 * @param {unknown[]} options.jobs
 * @param {(progress: any, job: number) => void} options.onProgress
 * @returns {Promise<any[]>}
 */
export async function runAll({ worker: file, workerData, jobs, onProgress }) {
  const results = [];
  const queue = jobs.entries();
  const work = () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(file, { workerData });
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
      worker.on("message", (message) => {
        if (!("result" in message)) return onProgress(message.progress, index);
        results[index] = message.result;
        next();
      });
      next();
    });
  await Promise.all(Array.from({ length: Math.min(THREADS, jobs.length) }, work));
  return results;
}
