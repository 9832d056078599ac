// All experiments, in the order of the page.

import batchSize from "./batch-size.mjs";
import figure1 from "./figure1.mjs";
import gammaBeta from "./gamma-beta.mjs";
import initialisation from "./initialisation.mjs";
import learningRate from "./learning-rate.mjs";
import lenet from "./lenet.mjs";
import regularisation from "./regularisation.mjs";
import saturation from "./saturation.mjs";
import smoothness from "./smoothness.mjs";
import whichNorm from "./which-norm.mjs";

/** @type {import("../experiment.mjs").Experiment[]} */
export const EXPERIMENTS = [
  figure1,
  learningRate,
  initialisation,
  saturation,
  smoothness,
  batchSize,
  whichNorm,
  regularisation,
  gammaBeta,
  lenet,
];
