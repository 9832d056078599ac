// Tests of the text in which the entries carry the wasm modules. That bundle.mjs writes it rightly is seen in every test
// of dist/, whose modules would not compile otherwise.

import { describe, expect, it } from "vitest";
import { decode, patch } from "../../src/wasm/decode.ts";

describe("decode", () => {
  it("reads frequent bytes as one character and the others as a mark and a character", () => {
    const [plain, marks, frequent] = ["abcd", "~^", "00ff2041"];
    // the other bytes in their order: 01, 02, 03, 04 behind the first mark, 05 to 08 behind the second
    expect([...decode(plain, marks, frequent, "abcd~a~d^aab")]).toEqual([0x00, 0xff, 0x20, 0x41, 1, 4, 5, 0x00, 0xff]);
  });
});

describe("patch", () => {
  const base = Uint8Array.from({ length: 300 }, (_, i) => i % 251);

  it("puts new bytes between copies that lie forwards and backwards in the base", () => {
    // one new byte, 10 forwards, 3 bytes: 10 to 12; no new byte, 5 backwards, 2 bytes: 8 and 9; at last two new bytes
    const edits = Uint8Array.of(1, 99, 20, 3, 0, 9, 2, 2, 7, 6, 0, 0);
    expect([...patch(base, edits)]).toEqual([99, 10, 11, 12, 8, 9, 7, 6]);
  });

  it("reads numbers of several bytes", () => {
    // 150 forwards is 300 = 2·128 + 44, and 140 = 128 + 12 bytes are copied
    const edits = Uint8Array.of(0, 0x80 | 44, 2, 0x80 | 12, 1);
    expect([...patch(base, edits)]).toEqual([...base.subarray(150, 290)]);
  });

  it("makes nothing of no edits", () => {
    expect(patch(base, new Uint8Array())).toHaveLength(0);
  });
});
