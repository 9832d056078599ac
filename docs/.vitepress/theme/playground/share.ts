// A program as the part of an address behind "#", and back: compressed where the browser can, as it is where it cannot.
//
//   #deflate=…   base64url of UTF-8, compressed
//   #code=…      base64url of UTF-8
//   #example=…   the name of a starting point

/** Bytes of a program from a link, so that a short link cannot fill the memory. */
const MOST = 1 << 20;

const toBase64url = (bytes: Uint8Array): string =>
  btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");

const fromBase64url = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));

/** Throws RangeError if more than `MOST` bytes come out. */
async function through(
  bytes: Uint8Array<ArrayBuffer>,
  stream: GenericTransformStream,
): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = [];
  let length = 0;
  const reader = new Blob([bytes])
    .stream()
    .pipeThrough(stream as ReadableWritablePair<Uint8Array, BufferSource>)
    .getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    length += value.length;
    if (length > MOST) throw new RangeError(`the program has more than ${MOST} bytes`);
    parts.push(value);
  }
  return new Uint8Array(await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

/** Returns the part of an address that holds a program, without "#". */
export async function toHash(code: string): Promise<string> {
  const bytes = new TextEncoder().encode(code);
  if (typeof CompressionStream === "undefined") return `code=${toBase64url(bytes)}`;
  return `deflate=${toBase64url(await through(bytes, new CompressionStream("deflate-raw")))}`;
}

/** Returns the program of an address, or undefined if it has none. Throws an Error if it has one that cannot be read. */
export async function fromHash(hash: string): Promise<string | undefined> {
  const [, kind, text = ""] = /^#?(deflate|code)=(.*)$/.exec(hash) ?? [];
  if (!kind) return undefined;
  const bytes = fromBase64url(text);
  const plain = kind === "code" ? bytes : await through(bytes, new DecompressionStream("deflate-raw"));
  return new TextDecoder("utf-8", { fatal: true }).decode(plain);
}

/** Returns the name of the starting point of an address, or undefined. */
export const exampleOf = (hash: string): string | undefined => /^#?example=([\w-]+)$/.exec(hash)?.[1];
