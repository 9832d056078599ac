// How a series is drawn, so that nobody has to tell colours apart: Okabe and Ito's, with lighter ones for a dark background,
// each with a pattern of dashes of its own. The first is with batch norm, the second without.

export const PALETTE = {
  light: ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#5b5b5b"],
  dark: ["#56b4e9", "#ff8c42", "#2fd6a3", "#e58fd0", "#f0d44c", "#bbbbbb"],
};

const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3], [4, 2], [1, 2]];

/**
 * @param {import("./experiment.mjs").Series} series
 * @param {"light" | "dark"} scheme
 * @returns {{ stroke: string, dash: number[] }}
 */
export const styleOf = ({ color, dash }, scheme) => ({
  stroke: PALETTE[scheme][color % PALETTE[scheme].length],
  dash: dash ?? DASHES[color % DASHES.length],
});
