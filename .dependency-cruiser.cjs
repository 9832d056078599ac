// Folders of src/ import downwards only (CONTRIBUTING.md, "Architecture"), src/ and assembly/ do not import each other, and
// no import is part of a cycle, types included.

/** Each folder with the folders that it may import, apart from itself. */
const MAY_IMPORT = {
  common: [],
  tensor: ["common"],
  distributed: ["common"],
  wasm: ["tensor", "common"],
  memory: ["wasm", "tensor", "common"],
  ops: ["memory", "wasm", "tensor", "common"],
  layer: ["ops", "memory", "wasm", "tensor", "common", "distributed"],
  interop: ["layer", "ops", "memory", "tensor", "common"],
  // whole model files, which are read and written without kernels; interop's arithmetic folds
  tools: ["interop", "layer", "ops", "memory", "wasm", "tensor", "common"],
  // of tfjs only types: it takes the packed entry, with the user's TF.js
  cli: ["tools", "tfjs", "tensor", "common"],
  // foldModel folds with interop's arithmetic
  tfjs: ["interop", "layer", "ops", "memory", "wasm", "tensor", "common"],
};

module.exports = {
  forbidden: [
    ...Object.entries(MAY_IMPORT).map(([folder, allowed]) => ({
      name: `${folder}-imports-upwards`,
      severity: "error",
      from: { path: `^src/${folder}/`, pathNot: "^src/tfjs/index" },
      to: { path: "^src/", pathNot: `^src/(${[folder, ...allowed].join("|")})/` },
    })),
    {
      name: "folder-without-a-rule",
      severity: "error",
      from: { path: "^src/[^/]+/", pathNot: `^src/(${Object.keys(MAY_IMPORT).join("|")})/` },
      to: {},
    },
    {
      name: "library-imports-tfjs",
      severity: "error",
      from: { path: "^src", pathNot: "^src/(tfjs|cli)/" },
      to: { path: "node_modules/@tensorflow" },
    },
    {
      name: "cli-imports-more-than-types-of-tfjs",
      severity: "error",
      from: { path: "^src/cli/" },
      to: { path: "^(src/tfjs|node_modules/@tensorflow)", dependencyTypesNot: ["type-only"] },
    },
    { name: "src-imports-assembly", severity: "error", from: { path: "^src" }, to: { path: "^assembly" } },
    {
      name: "assembly-imports-src",
      severity: "error",
      from: { path: "^assembly" },
      to: { path: "^(src|node_modules)" },
    },
    { name: "cycle", severity: "error", from: {}, to: { circular: true } },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "node_modules" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "types", "default"] },
  },
};
