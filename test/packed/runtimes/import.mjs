import * as library from "batchnorm-wasm";
import { report } from "./report.mjs";

await report(library);
