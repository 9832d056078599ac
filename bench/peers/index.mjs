// The peers, in the order of the report. A peer is
//
//   { name, prepare(problem) → { operations, dispose() } }
//
// where `operations` maps a name of data.mjs's OPERANDS to { call(), results() }: call() does it once, and results() are
// then what came out. In place of call(), a peer in another thread or process has time(repeats) → milliseconds per call.
// A peer leaves out what it cannot do. Another library becomes a file here and a line below; one that must load itself
// first may have an asynchronous prepare.

import { isolated } from "../isolate.mjs";
import { copy } from "./copy.mjs";
import { arrays, tensors } from "./wasm.mjs";

export const PEERS = [copy, tensors, arrays, isolated("plain JavaScript", "peers/javascript.mjs", "javascript")];
