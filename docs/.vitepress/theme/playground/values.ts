// Text for a value that a program prints: arrays with their length or shape and their first values, objects, errors.

/** How many values of a row, rows of a tensor and entries of an object are shown. */
const [VALUES, ROWS, ENTRIES] = [8, 6, 12];

/** How deep objects are shown within objects. */
const DEPTH = 3;

type NumberArray = ArrayLike<number | bigint> & { readonly constructor: { readonly name: string } };

const isTyped = (value: unknown): value is NumberArray => ArrayBuffer.isView(value) && !(value instanceof DataView);

/** A number of an array, in six digits: 0.1 as float32 is not 0.10000000149011612 to a reader. */
const short = (value: number | bigint): string =>
  typeof value === "bigint" ? `${value}n` : `${Number(value.toPrecision(6))}`;

const more = (hidden: number, what = "more"): string[] => (hidden > 0 ? [`… ${hidden} ${what}`] : []);

/** Some values from `from` on, in brackets. */
function row(data: ArrayLike<number | bigint>, from = 0, length = data.length): string {
  const shown = Array.from({ length: Math.min(length, VALUES) }, (_, i) => short(data[from + i] as number | bigint));
  return `[${[...shown, ...more(length - VALUES)].join(", ")}]`;
}

/** A tensor: its kind, its shape, and its first rows, one line for each. */
function tensorText(data: NumberArray, shape: readonly number[]): string {
  const head = `${data.constructor.name} of shape [${shape.join(", ")}]`;
  const length = shape.at(-1) ?? 1;
  if (shape.length < 2 || length === 0) return `${head} ${row(data)}`;
  const rows = data.length / length;
  const lines = Array.from({ length: Math.min(rows, ROWS) }, (_, i) => row(data, i * length, length));
  return [head, ...lines, ...more(rows - ROWS, "more rows")].join("\n  ");
}

const numbersOf = (shape: unknown): shape is number[] =>
  Array.isArray(shape) && shape.every((n) => Number.isInteger(n) && n >= 0);

/** Whether a value is a tensor: `{ data, shape }` of as many elements. */
function isTensor(value: object): value is { data: NumberArray; shape: number[] } {
  if (!("data" in value && "shape" in value && isTyped(value.data) && numbersOf(value.shape))) return false;
  return value.data.length === value.shape.reduce((a, b) => a * b, 1);
}

/**
 * Returns text for any value.
 *
 * @param inside the objects that the value is in, for circles and depth
 */
export function textOf(value: unknown, inside: readonly object[] = []): string {
  if (typeof value === "string") return inside.length ? JSON.stringify(value) : value;
  if (typeof value === "number") return inside.length ? short(value) : `${value}`;
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return `[function ${value.name || "without a name"}]`;
  if (typeof value !== "object" || value === null) return String(value);
  if (inside.includes(value)) return "[circular]";
  if (value instanceof Error) return `${value.name}: ${value.message}`;
  if (isTyped(value)) return `${value.constructor.name}(${value.length}) ${row(value)}`;
  if (isTensor(value)) return tensorText(value.data, value.shape);
  if (Array.isArray(value)) return arrayText(value, inside);
  if (value instanceof Map) return `Map(${value.size}) ${objectText([...value], inside.concat(value))}`;
  if (value instanceof Set) return `Set(${value.size}) ${arrayText([...value], inside)}`;
  // a class that says how it reads, such as Diagnosis with its table
  if (value.toString !== Object.prototype.toString && typeof value.toString === "function") return `${value}`;
  const name = Object.getPrototypeOf(value)?.constructor?.name;
  return (name && name !== "Object" ? `${name} ` : "") + objectText(Object.entries(value), inside.concat(value));
}

function arrayText(values: readonly unknown[], inside: readonly object[]): string {
  if (values.length && values.every((v) => typeof v === "number")) return `(${values.length}) ${row(values)}`;
  if (inside.length >= DEPTH) return `[array of ${values.length}]`;
  const shown = values.slice(0, VALUES).map((v) => textOf(v, inside.concat([values])));
  return `[${[...shown, ...more(values.length - VALUES)].join(", ")}]`;
}

function objectText(entries: readonly (readonly [unknown, unknown])[], inside: readonly object[]): string {
  if (inside.length > DEPTH) return "{…}";
  const shown = entries.slice(0, ENTRIES).map(([key, v]) => `${String(key)}: ${textOf(v, inside)}`);
  const parts = [...shown, ...more(entries.length - ENTRIES)];
  const line = `{ ${parts.join(", ")} }`;
  if (parts.length === 0) return "{}";
  if (line.length <= 72 && !line.includes("\n")) return line;
  return `{\n${parts.map((part) => `  ${part.replaceAll("\n", "\n  ")}`).join(",\n")}\n}`;
}
