// The worker of the page: computes one experiment, and sends what it yields. Told to pause it waits before the next step.
//
//   in   { start: { id, values } }   { pause: true }   { pause: false }
//   out  { updates }   { finished: true }   { error }

import { EXPERIMENTS } from "../experiments/index.mjs";

/** Between two messages, so that drawing and pausing keep up. */
const PACE = 60;

let release;
let paused = Promise.resolve();

self.onmessage = ({ data }) => {
  if (data.start) work(data.start).catch((error) => self.postMessage({ error: `${error.message ?? error}` }));
  else if (data.pause) paused = new Promise((resolve) => (release = resolve));
  else release?.();
};

/** Lets messages in. */
const turn = () => new Promise((resolve) => setTimeout(resolve));

async function digits() {
  const response = await fetch(new URL("digits.bin", self.location.href));
  if (!response.ok) throw new Error(`digits.bin: ${response.status} ${response.statusText}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const count = bytes.length / 785;
  return { labels: bytes.subarray(0, count), pixels: bytes.subarray(count) };
}

async function work({ id, values }) {
  const experiment = EXPERIMENTS.find((e) => e.id === id);
  const data = { digits: await digits(), tfjsBinaries: new URL("tfjs/", self.location.href).href };
  let updates = [];
  let sent = performance.now();
  for await (const update of experiment.run(values, data)) {
    updates.push(update);
    if (performance.now() - sent < PACE) continue;
    self.postMessage({ updates });
    updates = [];
    await turn();
    await paused;
    sent = performance.now();
  }
  self.postMessage({ updates, finished: true });
}
