import * as core from "/library/dist/core.js";
import * as library from "/library/dist/index.js";
import { answer, portToParent } from "./tasks.js";

answer(library, portToParent(), core);
