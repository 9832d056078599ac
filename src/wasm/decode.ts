// Decodes the wasm modules from text. gzip compresses this text as well as the bytes themselves. A build that shares
// most of its bytes with another is kept as the difference. bundle.mjs writes both.

/**
 * Returns the bytes that `text` encodes. A character of `plain` alone stands for one of the `frequent` bytes, which are
 * given in hexadecimal. A character of `plain` behind a character of `marks` stands for one of the other bytes, in
 * their order.
 */
export function decode(plain: string, marks: string, frequent: string, text: string): Uint8Array<ArrayBuffer> {
  const order = Array.from(plain, (_, i) => Number.parseInt(frequent.slice(i * 2, i * 2 + 2), 16));
  for (let byte = 0; byte < 256; byte++) if (!order.includes(byte)) order.push(byte);
  const bytes = new Uint8Array(text.length);
  let length = 0;
  let group = 0; // index in `order` of the byte that the first character of `plain` stands for
  for (const c of text) {
    const mark = marks.indexOf(c) + 1;
    if (mark) group = mark * plain.length;
    else {
      bytes[length++] = order[group + plain.indexOf(c)] as number;
      group = 0;
    }
  }
  return bytes.slice(0, length);
}

/**
 * Returns the bytes of a build that `edits` make from those of another, `base`. An edit has a number of new bytes, these
 * bytes, a distance in `base`, and a number of bytes to copy from there. The distance counts from the end of the copy
 * before: 2·d forwards, 2·d − 1 backwards. Numbers have seven bits in a byte, the lowest first, and a bit for "more".
 */
export function patch(base: Uint8Array, edits: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes: number[] = [];
  let at = 0;
  let from = 0;
  const readNumber = () => {
    let value = 0;
    let shift = 0;
    for (; (edits[at] as number) > 127; shift += 7) value |= ((edits[at++] as number) & 127) << shift;
    return value | ((edits[at++] as number) << shift);
  };
  while (at < edits.length) {
    for (let left = readNumber(); left > 0; left--) bytes.push(edits[at++] as number);
    const distance = readNumber();
    from += distance % 2 ? -(distance + 1) / 2 : distance / 2;
    for (let left = readNumber(); left > 0; left--) bytes.push(base[from++] as number);
  }
  return Uint8Array.from(bytes);
}
