const library = require("batchnorm-wasm");
const core = require("batchnorm-wasm/core");

import("./report.mjs").then(({ report }) => report(library, core));
