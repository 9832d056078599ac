// The floor of the benchmark: a copy that reads and writes a tensor the way the kernels do, four vectors per turn with
// immediate offsets, and does nothing else. Ranges must not overlap, unless `to` is `from`.

/** Copies `bytes` bytes, a multiple of 4. */
export function copy(from: usize, to: usize, bytes: usize): void {
  for (; bytes >= 64; bytes -= 64) {
    v128.store(to, v128.load(from));
    v128.store(to, v128.load(from, 16), 16);
    v128.store(to, v128.load(from, 32), 32);
    v128.store(to, v128.load(from, 48), 48);
    from += 64;
    to += 64;
  }
  for (; bytes; bytes -= 4) {
    store<u32>(to, load<u32>(from));
    from += 4;
    to += 4;
  }
}
