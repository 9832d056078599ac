import * as library from "/library/dist/index.js";
import { answer } from "./tasks.js";

answer(library, globalThis);
