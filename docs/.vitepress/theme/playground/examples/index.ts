// The starting points, in the order of the list: files beside this one, which tests run in Node and in browsers.

export const EXAMPLES = [
  { id: "layer", title: "A layer" },
  { id: "training-loop", title: "A training loop" },
  { id: "modes", title: "Modes: eval against frozen" },
  { id: "mask", title: "A mask of ragged sequences" },
  { id: "ghost-batches", title: "Ghost batches" },
  { id: "micro-batches", title: "Micro-batches equal to the big batch" },
  { id: "relu-residual", title: "Fused ReLU and residual" },
  { id: "fold-convolution", title: "Fold into a convolution" },
  { id: "group-and-layer-norm", title: "Group, layer and instance norm" },
  { id: "diagnose", title: "Diagnose a bad layer" },
  { id: "gradient-penalty", title: "A gradient penalty" },
  { id: "momentum", title: "Momentum and population statistics" },
  { id: "two-workers", title: "Two workers as one batch" },
] as const;

export type ExampleId = (typeof EXAMPLES)[number]["id"];
