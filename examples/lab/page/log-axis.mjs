// A logarithmic axis: what it spans, and which of its marks (1 to 9 times a power of ten) have a line and a label. uPlot's own
// goes up to the next power of ten, which leaves a third of a chart empty, and draws every mark of however many powers, which
// fills the chart of a loss that diverges with lines.

/** The same mark in spite of rounding: 0.3 / 0.1 is less than 3. */
const SLACK = 1e-9;

const powerBelow = (value) => 10 ** Math.floor(Math.log10(value) + SLACK);

const decades = (low, high) => Math.log10(high / low);

/** From the mark at or below the least value to the one at or above the greatest; without values, nothing. */
export function logRange(min, max) {
  if (min === null || max === null) return [null, null];
  const [below, above] = [powerBelow(min), powerBelow(max)];
  const low = below * Math.floor(min / below + SLACK);
  const high = above * Math.ceil(max / above - SLACK);
  // 3 × 0.1 is more than 0.3
  return (low < high ? [low, high] : [low / 10, high * 10]).map((mark) => Number(mark.toPrecision(12)));
}

/** Which digits before a power of ten have a label, by the decades that an axis spans at most. */
const LABELS = [
  [0.5, [1, 2, 3, 4, 5, 6, 7, 8, 9]],
  [2, [1, 2, 5]],
];

/** Decades with a line for every mark. */
const FINE = 3;

/** Powers of ten with a line or label at most. */
const POWERS = 8;

/** Marks of which those that `digits` do not name, or that are too many powers of ten, are null, as uPlot has it. */
function keep(marks, digits, span) {
  const every = Math.max(1, Math.ceil(span / POWERS));
  return marks.map((mark) => {
    const power = powerBelow(mark);
    const named = digits.includes(Math.round(mark / power)) && Math.round(Math.log10(power)) % every === 0;
    return named ? mark : null;
  });
}

const spanOf = (marks) => decades(marks[0], marks.at(-1)) - SLACK;

/** Marks that have a label. */
export function labelled(marks) {
  const span = spanOf(marks);
  return keep(marks, LABELS.find(([most]) => span <= most)?.[1] ?? [1], span);
}

/** Marks that have a line. */
export const ruled = (marks) => (spanOf(marks) <= FINE ? marks : keep(marks, [1], spanOf(marks)));

/** A label: 0.001 to 10000 in full, 1e5 and 1e-4 beyond. */
export const logLabel = (mark) => {
  if (mark === null) return "";
  return mark >= 1e5 || mark < 1e-3 ? mark.toExponential(0).replace("+", "") : `${Number(mark.toPrecision(3))}`;
};
