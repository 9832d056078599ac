importScripts("/library/dist/batchnorm-wasm.global.js");

import("./tasks.js").then(({ answer }) => answer(globalThis.batchnormWasm, globalThis));
