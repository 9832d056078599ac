// A worker of workerd: answers any request with what check.js finds.

import * as library from "batchnorm-wasm";
import * as core from "batchnorm-wasm/core";
import simd from "batchnorm-wasm/simd.wasm";
import { check } from "./check.js";
import data from "./data.bin";
import manifest from "./manifest.json";

export default {
  async fetch() {
    return Response.json(await check(library, { manifest, data }, simd, core));
  },
};
