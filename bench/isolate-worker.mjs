// The worker thread of isolate.mjs: prepares one peer at a time and times what it is asked for by its own clock.

import { runAsWorker } from "synckit";
import { timeCalls } from "./measure.mjs";

let prepared;

const actions = {
  async prepare({ file, exported, problem }) {
    const { [exported]: peer } = await import(file);
    prepared = await peer.prepare(problem);
    return Object.keys(prepared.operations);
  },
  time: ({ name, repeats }) => timeCalls(prepared.operations[name].call, repeats),
  results({ name }) {
    return prepared.operations[name].results();
  },
  dispose() {
    prepared.dispose();
    prepared = undefined;
  },
};

runAsWorker(async (action, options) => actions[action](options));
