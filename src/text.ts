// Bytes from a text that gzip compresses as well as the bytes themselves; bundle.mjs writes it and says how.

/** `order` are the bytes that a character of `plain` stands for; the others are "~" and two hexadecimal digits. */
export function decode(plain: string, order: readonly number[], text: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length);
  let length = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i] as string;
    if (c === "~") {
      bytes[length++] = Number.parseInt(text.slice(i + 1, i + 3), 16);
      i += 2;
    } else bytes[length++] = order[plain.indexOf(c)] as number;
  }
  return bytes.slice(0, length);
}
