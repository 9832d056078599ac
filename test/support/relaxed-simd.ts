// In Node 20 relaxed SIMD needs a flag, which must be set before the first module is compiled. Later versions have
// relaxed SIMD by default and ignore the flag.

import { setFlagsFromString } from "node:v8";

setFlagsFromString("--experimental-wasm-relaxed-simd");
