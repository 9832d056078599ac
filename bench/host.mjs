// What an isolate does for whoever asks: prepares one peer of peers/index.mjs on a problem, times its operations by its own
// clock, and hands out their results. The same in a thread of Node and in a worker of the browser.

import { timeCalls } from "./measure.mjs";
import { ISOLATED } from "./peers/index.mjs";

/** A plain copy: shared memory is slower to copy from, and a view would take the whole memory behind it along. */
const own = (value) => (ArrayBuffer.isView(value) ? value.slice() : value);
const ownAll = (values) => Object.fromEntries(Object.entries(values).map(([name, value]) => [name, own(value)]));

export function host() {
  let prepared;
  return {
    async prepare({ peer, problem, settings }) {
      const { prepare } = await ISOLATED[peer].load();
      prepared = await prepare(ownAll(problem), settings);
      return Object.keys(prepared.operations);
    },
    time: ({ operation, repeats }) => timeCalls(prepared.operations[operation], repeats),
    results: async ({ operation }) => ownAll(await prepared.operations[operation].results()),
  };
}
