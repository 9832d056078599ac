import * as core from "/library/dist/core.js";
import * as library from "/library/dist/index.js";
import { answer } from "./tasks.js";

registerProcessor(
  "batchnorm-wasm",
  class extends AudioWorkletProcessor {
    constructor() {
      super();
      answer(library, this.port, core);
    }

    process() {
      return true;
    }
  },
);
