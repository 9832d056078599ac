// Okabe and Ito's colours, which colour-blind readers can tell apart, and lighter ones for a dark background: the first is
// with batch norm, the second without.

export const PALETTE = {
  light: ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#8a6d00", "#5b5b5b"],
  dark: ["#56b4e9", "#ff8c42", "#2fd6a3", "#e58fd0", "#f0d44c", "#bbbbbb"],
};
