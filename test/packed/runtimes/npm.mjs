import * as library from "npm:batchnorm-wasm";
import * as core from "npm:batchnorm-wasm/core";
import { report } from "./report.mjs";

await report(library, core);
