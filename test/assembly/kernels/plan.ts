// Tests of plans. The shape alone decides the walk, the precision and the offsets in the workspace.

import { expect, it } from "vitest";
import { BLOCKED, dimsOf, Planned, SMALL, STRIPED, type World } from "./world.ts";

/** Both sides of every bound. */
const DECISIONS = `
  shape        options  bytes  planar  columnsPerChannel  period  columns  rows     stripe   stripes  precision  columnBlocks  pitch
  # planes are as long as 32 elements, or of one sample 4
  2×3×32       0        4      1       1                  3       3        64       64       1        2          1             3
  2×3×31       0        4      0       31                 93      93       2        2        1        2          6             3
  1×3×4        0        4      1       1                  3       3        4        4        1        2          1             3
  1×3×3        0        4      0       3                  9       9        1        1        1        2          1             3
  # a single channel is rows, unless it is to stay a plane
  4×1×50       0        4      0       1                  1       64       4        4        1        1          1             1
  4×1×50       2        4      1       1                  1       1        200      200      1        2          1             1
  4×1×31       2        4      0       31                 31      31       4        4        1        2          2             1
  # rows are whole periods in whole steps of 16, and at least 64 long, if there are as many
  64×1×1       0        4      0       1                  1       64       1        1        1        2          1             1
  63×1×1       0        4      0       1                  1       1        63       63       1        2          1             1
  16×5×1       0        4      0       1                  5       80       1        1        1        2          1             5
  15×5×1       0        4      0       1                  5       5        15       15       1        2          1             5
  17×12×1      0        4      0       1                  12      96       3        3        1        2          1             12
  100×64×1     0        4      0       1                  64      64       100      100      1        2          4             64
  100×65×1     0        4      0       1                  65      1040     7        7        1        2          5             65
  9×3×8        0        4      0       8                  24      96       3        3        1        2          2             3
  # blocks of 64 from 1024 values on, of four from 512 in planes and 128 in rows; float64 has one precision
  1×2×511      0        4      1       1                  2       2        511      511      1        2          1             2
  1×2×512      0        4      1       1                  2       2        512      512      1        1          1             2
  1×2×1023     0        4      1       1                  2       2        1023     1023     1        1          1             2
  1×2×1024     0        4      1       1                  2       2        1024     1024     1        0          1             2
  127×2×1      0        4      0       1                  2       64       4        4        1        2          1             2
  128×2×1      0        4      0       1                  2       64       4        4        1        1          1             2
  1023×2×1     0        4      0       1                  2       64       32       32       1        1          1             2
  1024×2×1     0        4      0       1                  2       64       32       32       1        0          1             2
  3×2×1        0        8      0       1                  2       2        3        3        1        0          1             2
  200×2×1      0        8      0       1                  2       64       7        7        1        0          1             2
  1×2×100      0        8      1       1                  2       2        100      100      1        0          1             2
  # stripes of at least 65,536 elements and 512 rows, and at most 32 of them
  2047×64×1    0        4      0       1                  64      64       2047     2047     1        0          4             64
  2048×64×1    0        4      0       1                  64      64       2048     1024     2        0          4             64
  2049×64×1    0        4      0       1                  64      64       2049     1025     2        0          4             64
  1023×256×1   0        4      0       1                  256     256      1023     1023     1        1          16            256
  1024×256×1   0        4      0       1                  256     256      1024     512      2        0          16            256
  100000×64×1  0        4      0       1                  64      64       100000   3125     32       0          4             64
  26301×5×1    0        4      0       1                  5       80       1644     822      2        0          1             5
  20000×2×50   0        4      1       1                  2       2        1000000  1000000  1        0          1             2
  # tiles of at most 131,072 elements in whole channels, but at least one
  40×5×820     0        4      1       1                  5       5        32800    32800    1        0          1             5
  40×5×820     1        4      1       1                  5       5        32800    32800    1        0          1             3
  40×2×820     1        4      1       1                  2       2        32800    32800    1        0          1             2
  4096×5×32    1        4      1       1                  5       5        131072   131072   1        0          1             1
  2048×5×32    1        4      1       1                  5       5        65536    65536    1        0          1             2
  9×5×20000    1        4      1       1                  5       5        180000   180000   1        0          1             1
  3000×64×1    1        4      0       1                  64      64       3000     1500     2        0          4             64
  7×1×50000    3        4      1       1                  1       1        350000   350000   1        0          1             1
`;

export function testPlan(f32: World, f64: World): void {
  it("decides on the walk, the precision, stripes and tiles", () => {
    const [names, ...rows] = DECISIONS.trim()
      .split("\n")
      .filter((line) => !line.includes("#"))
      .map((line) => line.trim().split(/\s+/)) as [string[], ...string[][]];
    for (const [shape = "", options, bytes, ...values] of rows) {
      const w = bytes === "8" ? f64 : f32;
      const [dims = [0, 0, 0] as const] = dimsOf(shape);
      const p = new Planned(w, dims, Number(options));
      const expected = Object.fromEntries(names.slice(3).map((name, i) => [name, Number(values[i])]));
      const [outer, channels, inner] = dims;
      const sizes = { elementBytes: Number(bytes), channels, length: outer * channels * inner };
      const tiled = Number(options) & 1;
      expect(p.plan, `${shape}, options ${options}`).toMatchObject({ ...expected, ...sizes, tiled });
      expect(p.get("outer") * p.get("inner"), shape).toBe(outer * inner);
      w.arena.close();
    }
    expect(rows).toHaveLength(42);
  });
}

/** Shapes, options, bytes of an element, and the channels of a block. */
const BLOCKS = [
  ["32×64×3136", 0, 4, 2], // 1 MiB of x
  ["32×64×3136", 0, 8, 1],
  ["32×512×784", 0, 4, 10],
  ["512×96×400", 0, 4, 8], // 12 KiB in a row
  ["2×3×4000000", 0, 4, 1],
  ["32×256×196", 0, 4, 256], // fits into a cache
  ["10×4×40000", 1, 4, 1], // a tile
  ["100352×64×1", 0, 4, 64], // rows
] as const;

export function testBlocks(f32: World, f64: World): void {
  it.each(BLOCKS)("blocks of %s, options %i, %i bytes an element, have %i channels", (shape, options, bytes, block) => {
    const w = bytes === 8 ? f64 : f32;
    for (const dims of dimsOf(shape)) expect(new Planned(w, dims, options).get("block")).toBe(block);
    w.arena.close();
  });
}

export function testWorkspace(f32: World, f64: World): void {
  it("has room for every vector of the plan, at multiples of 64 bytes, one behind the other, whatever the options are", () => {
    for (const w of [f32, f64])
      for (const dims of [...SMALL, ...BLOCKED, ...STRIPED, ...dimsOf("2×1×31 1×1×3 1×1000×1")])
        for (const options of [0, 1, 2, 3]) {
          const p = new Planned(w, dims, options);
          let end = p.pointer;
          for (const { pointer, bytes } of p.regions) {
            if (pointer < end || (pointer - p.pointer) % 64) expect.fail(`[${dims}]: ${pointer} is not behind ${end}`);
            end = pointer + bytes;
          }
          const [room, needed] = [p.bytes.length, end - p.pointer];
          if (room < needed || room % 64) expect.fail(`[${dims}], options ${options}: ${room} bytes for ${needed}`);
          w.arena.close();
        }
    expect(f32.core.workspace(4, 2, 3, 32)).toBeLessThan(2048);
  });

  it("is small beside a large tensor, and nothing for an empty one", () => {
    for (const dims of dimsOf("2048×64×1 64×64×3136 50000×7×1"))
      expect(f32.core.workspace(4, ...dims)).toBeLessThan(dims[0] * dims[1] * dims[2] * 0.4);
    for (const dims of dimsOf("0×3×4 2×3×0 2×0×4 0×0×0 0×1×5"))
      expect([4, 8].map((bytes) => f32.core.workspace(bytes, ...dims))).toEqual([0, 0]);
  });
}
