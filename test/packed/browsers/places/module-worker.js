import * as core from "/library/dist/core.js";
import * as library from "/library/dist/index.js";
import { answer } from "./tasks.js";

answer(library, globalThis, core);
