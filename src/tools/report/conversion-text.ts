// The report of a conversion as text for a terminal: each batch norm with its old and new names, then what is left to do.

import type { ConversionReport, ConvertedLayer } from "../convert.ts";
import { digits, plural, printable, wrap } from "./text.ts";

/** Layers with one note that are shown with their names; of more, the first ones are. */
const NAMES = 3;

function layerText({ name, newName, from, channels, dtype, epsilon, momentum, tensors }: ConvertedLayer): string {
  const options = [
    ...(epsilon === undefined ? [] : [`epsilon ${digits(epsilon)}`]),
    ...(momentum ? [`momentum ${momentum.pytorch} as PyTorch, ${momentum.keras} as Keras defines it`] : []),
  ];
  return [
    `${name} → ${newName} (${[from, plural(channels, "channel"), dtype, ...options].join(", ")})`,
    ...tensors.map(
      (tensor) => `  ${tensor.from ?? "—"} → ${tensor.to ?? "—"}${tensor.change ? `   ${tensor.change}` : ""}`,
    ),
  ].join("\n");
}

/** Returns notes and reasons once each, with the names of their layers. */
function notesText(notes: readonly { readonly name: string; readonly text: string }[], sign: string, width: number) {
  const groups = new Map<string, string[]>();
  for (const { name, text } of notes) groups.set(text, [...(groups.get(text) ?? []), name]);
  return [...groups].map(([text, [first, ...others]]) => {
    const more = others.length > NAMES ? ` and ${others.length - NAMES} more` : "";
    const also = others.length ? ` Also: ${others.slice(0, NAMES).join(", ")}${more}.` : "";
    return wrap(`${sign}${first}: ${text}.${also}`, width, "  ");
  });
}

/** Returns the report of a conversion as text. Names are not cut; all else has lines of at most `width` characters. */
export function conversionText(report: ConversionReport, width = 80): string {
  const { file, format, to, layers, unconverted, others, notes } = printable(report);
  const head = `${file} (${format}) → ${to}: ${plural(layers.length, "batch norm")} converted, ${unconverted.length} not; ${plural(others, "other tensor")} copied`;
  const parts = [
    wrap(head, width, "  "),
    layers.map(layerText).join("\n"),
    notesText(
      unconverted.map(({ name, reason }) => ({ name, text: reason })),
      "NOT CONVERTED ",
      width,
    ).join("\n"),
    notesText(
      layers.flatMap((layer) => layer.notes.map((text) => ({ name: layer.name, text }))),
      "note: ",
      width,
    ).join("\n"),
    notes.map((note) => wrap(note, width, "  ")).join("\n"),
  ];
  return `${parts.filter(Boolean).join("\n\n")}\n`;
}
