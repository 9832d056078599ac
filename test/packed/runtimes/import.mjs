import * as library from "batchnorm-wasm";
import * as core from "batchnorm-wasm/core";
import { report } from "./report.mjs";

await report(library, core);
