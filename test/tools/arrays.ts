// .npy files for the suites of tools.

/** Returns a .npy file with a header as NumPy writes it. */
export function npy(
  descr: string,
  shape: readonly number[],
  data: ArrayBufferView,
  { order = "False", header, version = 1 }: { order?: string; header?: string; version?: number } = {},
): Uint8Array {
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = header ?? `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': (${sizes}), }`;
  const prefix = version === 1 ? 10 : 12;
  const padded = `${text.padEnd(Math.ceil((prefix + text.length + 1) / 64) * 64 - prefix - 1)}\n`;
  const file = new Uint8Array(prefix + padded.length + data.byteLength);
  file.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, version, 0]);
  const view = new DataView(file.buffer);
  if (version === 1) view.setUint16(8, padded.length, true);
  else view.setUint32(8, padded.length, true);
  file.set(
    Array.from(padded, (c) => c.charCodeAt(0)),
    prefix,
  );
  file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), prefix + padded.length);
  return file;
}
