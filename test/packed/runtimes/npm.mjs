import * as library from "npm:batchnorm-wasm";
import { report } from "./report.mjs";

await report(library);
