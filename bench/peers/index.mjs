// The peers, in the order of the report. A peer is
//
//   { name, prepare(problem) → { operations, dispose() } }
//
// where `operations` maps a name of data.mjs's OPERANDS to { call(), results() }: call() does it once, and results() are
// then what came out. A peer leaves out what it cannot do. Another library becomes a file here and a line below; one
// that must load itself first may have an asynchronous prepare.

import { copy } from "./copy.mjs";
import { javascript } from "./javascript.mjs";
import { arrays, tensors } from "./wasm.mjs";

export const PEERS = [copy, tensors, arrays, javascript];
