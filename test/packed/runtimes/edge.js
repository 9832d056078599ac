// A program of an edge-light host, such as Next's middleware. The test hands in the data and takes the promise.

import * as library from "batchnorm-wasm";
import * as core from "batchnorm-wasm/core";
import simd from "batchnorm-wasm/simd.wasm?module";
import { check } from "./check.js";

globalThis.found = check(library, globalThis.golden, simd, core);
