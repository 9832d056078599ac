// The drawings of the concepts, in English and Chinese: `npm run docs:drawings` writes them beside their pages. They are files
// because GitHub shows no SVG inside Markdown. test/site/drawings.test.ts compares the files with this script.

import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { PICTURE_STYLE } from "../../examples/lab/palette.mjs";

const ENGLISH = {
  folder: "concepts",
  words: { samples: "samples", channels: "channels", units: "units", inputs: "inputs", outputs: "outputs" },
  captions: {
    "batch-norm-dense": ["Dense layer, [4, 3]", "one unit, all samples"],
    "batch-norm-convolution": ["Convolution, [3, 3, 2, 2]", "one channel, all samples", "and positions"],
    "family-batch": ["Batch norm", "one channel, all samples", "and positions"],
    "family-instance": ["Instance norm", "one channel of one sample"],
    "family-group": ["Group norm", "neighbouring channels", "of one sample"],
    "family-layer": ["Layer norm over [C, H, W]", "one sample"],
    "family-position": ["Layer norm and RMS norm", "in a transformer: one position", "of one sample, all channels"],
    "family-weight": ["Weight norm", "the weights of one output;", "no activations"],
  },
  steps: {
    standardise: "standardise",
    scale: "scale and shift",
    training: ["in training:", "of the batch"],
    prediction: ["in prediction:", "running ones"],
    statistics: "mean, variance",
    learned: ["gamma, beta:", "learned"],
  },
};

const CHINESE = {
  folder: "zh/concepts",
  words: { samples: "样本", channels: "通道", units: "单元", inputs: "输入", outputs: "输出" },
  captions: {
    "batch-norm-dense": ["全连接层，[4, 3]", "一个单元，所有样本"],
    "batch-norm-convolution": ["卷积层，[3, 3, 2, 2]", "一个通道，", "所有样本和所有位置"],
    "family-batch": ["批量规范化", "一个通道，", "所有样本和所有位置"],
    "family-instance": ["实例规范化", "一个样本的一个通道"],
    "family-group": ["组规范化", "一个样本的相邻通道"],
    "family-layer": ["[C, H, W] 上的层规范化", "一个样本"],
    "family-position": ["层规范化和 RMS 规范化", "Transformer 中：一个样本的", "一个位置，所有通道"],
    "family-weight": ["权重规范化", "一个输出的权重；", "与激活值无关"],
  },
  steps: {
    standardise: "标准化",
    scale: "拉伸与偏移",
    training: ["训练时：", "小批量的"],
    prediction: ["预测时：", "移动平均"],
    statistics: "均值、方差",
    learned: ["gamma、beta：", "学习得到"],
  },
};

/**
 * The tables: their axes, and which cells are hatched. A cell of a tensor with positions is four squares, numbered 0 to 3;
 * a cell without them is one, numbered 0.
 */
const images = { rows: ["samples", 3], columns: ["channels", 4], positions: true };
const TABLES = {
  "batch-norm-dense": { rows: ["samples", 4], columns: ["units", 3], hatched: (_, column) => column === 1 },
  "batch-norm-convolution": { ...images, columns: ["channels", 3], hatched: (_, column) => column === 1 },
  "family-batch": { ...images, hatched: (_, column) => column === 1 },
  "family-instance": { ...images, hatched: (row, column) => row === 1 && column === 1 },
  "family-group": { ...images, hatched: (row, column) => row === 1 && column < 2 },
  "family-layer": { ...images, hatched: (row) => row === 1 },
  "family-position": { ...images, hatched: (row, _, square) => row === 1 && square === 0 },
  "family-weight": { rows: ["outputs", 3], columns: ["inputs", 4], hatched: (row) => row === 1 },
};

const WIDTH = 200;
const CELL = { first: 34, pitch: 36, size: 30 };

const range = (length) => Array.from({ length }, (_, i) => i);

const text = (x, y, words, attributes = "") => `<text x="${x}" y="${y}"${attributes}>${words}</text>`;
const MIDDLE = ' text-anchor="middle"';
const BOLD = ' font-weight="600"';

const drawing = (width, height, fontSize, parts) =>
  [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"`,
    ` font-family="system-ui, sans-serif" font-size="${fontSize}" fill="var(--text)">`,
    PICTURE_STYLE,
    `<rect width="100%" height="100%" fill="var(--background)"/>`,
    ...parts,
    `</svg>\n`,
  ].join("\n");

function table({ rows, columns, positions, hatched }, caption, words) {
  const size = positions ? CELL.size / 2 : CELL.size;
  const paths = { plain: "", hatched: "" };
  for (const row of range(rows[1]))
    for (const column of range(columns[1]))
      for (const square of range(positions ? 4 : 1)) {
        const x = CELL.first + CELL.pitch * column + (square % 2) * size;
        const y = CELL.first + CELL.pitch * row + Math.floor(square / 2) * size;
        paths[hatched(row, column, square) ? "hatched" : "plain"] += `M${x} ${y}h${size}v${size}h-${size}z`;
      }
  const centre = (i) => CELL.first + CELL.pitch * i + CELL.size / 2;
  const [across, down] = [columns, rows].map(([, count]) => centre((count - 1) / 2));
  const end = CELL.first + CELL.pitch * rows[1];
  return drawing(WIDTH, end + 14 + 16 * caption.length, 12, [
    `<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">` +
      `<path d="M0 0V5" stroke="var(--text)" stroke-width="3"/></pattern>`,
    text(across, 12, words[columns[0]], MIDDLE),
    text(12, down, words[rows[0]], `${MIDDLE} transform="rotate(-90 12 ${down})"`),
    ...range(columns[1]).map((column) => text(centre(column), 28, column, MIDDLE)),
    ...range(rows[1]).map((row) => text(28, centre(row) + 4, row, ' text-anchor="end"')),
    `<path d="${paths.plain}" fill="none" stroke="var(--text)" stroke-opacity="0.6"/>`,
    `<path d="${paths.hatched}" fill="url(#hatch)" stroke="var(--text)" stroke-width="2"/>`,
    ...caption.map((line, i) => text(8, end + 14 + 16 * i, line, i === 0 ? BOLD : "")),
  ]);
}

/** An arrow from one point to another, to the right or upwards. */
function arrow([x1, y1], [x2, y2], dashes = "") {
  const head = y1 === y2 ? `M${x2 - 6} ${y2 - 4}l6 4l-6 4` : `M${x2 - 4} ${y2 + 6}l4 -6l4 6`;
  return (
    `<path d="M${x1} ${y1}L${x2} ${y2}" stroke="var(--text)"${dashes}/>` +
    `<path d="${head}" fill="none" stroke="var(--text)"/>`
  );
}

function steps({ standardise, scale, training, prediction, statistics, learned }) {
  const box = (x, title, formula) =>
    `<rect x="${x}" y="10" width="172" height="52" rx="6" fill="none" stroke="var(--text)"/>` +
    text(x + 86, 29, title, MIDDLE + BOLD) +
    text(x + 86, 47, formula, MIDDLE);
  return drawing(484, 194, 13, [
    text(8, 40, "x", BOLD),
    arrow([22, 36], [46, 36]),
    box(48, standardise, "x̂ = (x − mean) · invStd"),
    text(241, 30, "x̂", MIDDLE + BOLD),
    arrow([222, 36], [260, 36]),
    box(262, scale, "y = gamma · x̂ + beta"),
    arrow([436, 36], [462, 36]),
    text(468, 40, "y", BOLD),
    arrow([100, 128], [100, 64]),
    arrow([166, 128], [166, 64], ' stroke-dasharray="5 4"'),
    arrow([348, 128], [348, 64]),
    ...training.map((line, i) => text(118, 146 + 18 * i, line, ' text-anchor="end"')),
    ...prediction.map((line, i) => text(148, 146 + 18 * i, line)),
    text(133, 184, statistics, MIDDLE),
    ...learned.map((line, i) => text(348, 146 + 18 * i, line, MIDDLE)),
  ]);
}

/** The drawings by their files, such as "concepts/family-batch.svg". */
export const drawings = () =>
  Object.fromEntries(
    [ENGLISH, CHINESE].flatMap(({ folder, words, captions, steps: labels }) => [
      [`${folder}/batch-norm-steps.svg`, steps(labels)],
      ...Object.entries(TABLES).map(([name, shape]) => [`${folder}/${name}.svg`, table(shape, captions[name], words)]),
    ]),
  );

if (import.meta.url === pathToFileURL(process.argv[1]).href)
  for (const [file, svg] of Object.entries(drawings())) writeFileSync(new URL(`../${file}`, import.meta.url), svg);
