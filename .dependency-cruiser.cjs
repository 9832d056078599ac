// Imports point down this list only, and src never imports assembly (CONTRIBUTING.md, "The house").

const ORDER = [
  "tfjs/index",
  "tfjs/layer",
  "tfjs/kernels",
  "tfjs/op",
  "tfjs/access",
  "index",
  "extended",
  "diagnose",
  "recalibrate",
  "init",
  "batchnorm",
  "config",
  "fold",
  "state",
  "double",
  "family",
  "masked",
  "functional",
  "slices",
  "mask",
  "core",
  "running",
  "operand",
  "memory",
  "kernels",
  "geometry",
  "options",
  "activations",
  "activation",
  "safetensors",
  "dtype",
  "module",
  "threads",
  "extras",
  "features",
  "worker",
  "board",
  "text",
  "errors",
];

const file = (names) => `^src/(${names.join("|")})\\.ts$`;

module.exports = {
  forbidden: [
    ...ORDER.slice(1).map((name, i) => ({
      name: `${name.replace("/", "-")}-imports-upwards`,
      severity: "error",
      from: { path: file([name]) },
      // extras.ts has the types of what it waits for
      to: { path: file(ORDER.slice(0, i + 1)), dependencyTypesNot: name === "extras" ? ["type-only"] : [] },
    })),
    {
      name: "library-imports-tfjs",
      severity: "error",
      from: { path: "^src", pathNot: "^src/tfjs/" },
      to: { path: "node_modules/@tensorflow" },
    },
    { name: "src-imports-assembly", severity: "error", from: { path: "^src" }, to: { path: "^assembly" } },
    {
      name: "assembly-imports-src",
      severity: "error",
      from: { path: "^assembly" },
      to: { path: "^(src|node_modules)" },
    },
    { name: "unlisted-file", severity: "error", from: { path: "^src", pathNot: [file(ORDER), "\\.d\\.ts$"] }, to: {} },
    {
      name: "cycle",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "node_modules" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "types", "default"] },
  },
};
