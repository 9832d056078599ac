// Node 20 has relaxed SIMD behind a flag, which must be set before the first module is compiled; later versions have it by
// default, and ignore the flag.

import { setFlagsFromString } from "node:v8";

setFlagsFromString("--experimental-wasm-relaxed-simd");
