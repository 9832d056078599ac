// Decodes the wasm modules from text. gzip compresses this text as well as the bytes themselves. bundle.mjs writes the
// text and explains the code.

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
