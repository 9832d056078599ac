const library = require("batchnorm-wasm");

import("./report.mjs").then(({ report }) => report(library));
