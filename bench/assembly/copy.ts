// The floor of the benchmark: a copy that reads and writes a tensor the way the kernels do, four vectors per turn with
// immediate offsets, and does nothing else. And in the same way, the passes that ReLU takes where nothing is fused. Ranges
// must not overlap, unless they are the same. `bytes` is a multiple of 4.

/** Copies `bytes` bytes. */
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

/** y = max(y, 0), in place. */
export function relu(y: usize, bytes: usize): void {
  const zero = f32x4.splat(0);
  for (; bytes >= 64; bytes -= 64) {
    v128.store(y, f32x4.pmax(v128.load(y), zero));
    v128.store(y, f32x4.pmax(v128.load(y, 16), zero), 16);
    v128.store(y, f32x4.pmax(v128.load(y, 32), zero), 32);
    v128.store(y, f32x4.pmax(v128.load(y, 48), zero), 48);
    y += 64;
  }
  for (; bytes; bytes -= 4) {
    v128.store32_lane(y, f32x4.pmax(v128.load32_zero(y), zero), 0);
    y += 4;
  }
}

/** y = max(y + b, 0), in place. */
export function addRelu(y: usize, b: usize, bytes: usize): void {
  const zero = f32x4.splat(0);
  for (; bytes >= 64; bytes -= 64) {
    v128.store(y, f32x4.pmax(f32x4.add(v128.load(y), v128.load(b)), zero));
    v128.store(y, f32x4.pmax(f32x4.add(v128.load(y, 16), v128.load(b, 16)), zero), 16);
    v128.store(y, f32x4.pmax(f32x4.add(v128.load(y, 32), v128.load(b, 32)), zero), 32);
    v128.store(y, f32x4.pmax(f32x4.add(v128.load(y, 48), v128.load(b, 48)), zero), 48);
    y += 64;
    b += 64;
  }
  for (; bytes; bytes -= 4) {
    v128.store32_lane(y, f32x4.pmax(f32x4.add(v128.load32_zero(y), v128.load32_zero(b)), zero), 0);
    y += 4;
    b += 4;
  }
}

/** dz = dy where y > 0, else 0. */
export function gate(y: usize, dy: usize, dz: usize, bytes: usize): void {
  const zero = f32x4.splat(0);
  for (; bytes >= 64; bytes -= 64) {
    v128.store(dz, v128.and(v128.load(dy), f32x4.gt(v128.load(y), zero)));
    v128.store(dz, v128.and(v128.load(dy, 16), f32x4.gt(v128.load(y, 16), zero)), 16);
    v128.store(dz, v128.and(v128.load(dy, 32), f32x4.gt(v128.load(y, 32), zero)), 32);
    v128.store(dz, v128.and(v128.load(dy, 48), f32x4.gt(v128.load(y, 48), zero)), 48);
    y += 64;
    dy += 64;
    dz += 64;
  }
  for (; bytes; bytes -= 4) {
    v128.store32_lane(dz, v128.and(v128.load32_zero(dy), f32x4.gt(v128.load32_zero(y), zero)), 0);
    y += 4;
    dy += 4;
    dz += 4;
  }
}
