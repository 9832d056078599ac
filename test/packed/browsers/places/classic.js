import { answer, portToParent } from "./tasks.js";

answer(globalThis.batchnormWasm, portToParent());
