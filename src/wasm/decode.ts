// Bytes from a text that gzip compresses as well as the bytes themselves; bundle.mjs writes it and says how.

/**
 * `frequent` are bytes, in hexadecimal: the characters of `plain` stand for those, and behind one of `marks` for the
 * others in their order.
 */
export function decode(plain: string, marks: string, frequent: string, text: string): Uint8Array<ArrayBuffer> {
  const order = Array.from(plain, (_, i) => Number.parseInt(frequent.slice(i * 2, i * 2 + 2), 16));
  for (let byte = 0; byte < 256; byte++) if (!order.includes(byte)) order.push(byte);
  const bytes = new Uint8Array(text.length);
  let length = 0;
  let at = 0;
  for (const c of text) {
    const mark = marks.indexOf(c) + 1;
    if (mark) at = mark * plain.length;
    else {
      bytes[length++] = order[at + plain.indexOf(c)] as number;
      at = 0;
    }
  }
  return bytes.slice(0, length);
}
