// 16-bit storage: converts elements [begin, end) between 16 bits and f32. There is no arithmetic in 16 bits, because
// all other kernels work on f32 and f64.
//
//   float16    s eeeee mmmmmmmmmm          2^-24 … 65504, 11 bits
//   bfloat16   s eeeeeeee mmmmmmm          the upper half of an f32, 8 bits
//
// Widening is exact. Narrowing rounds to nearest, ties to even, and numbers that are too large become infinity. NaN
// stays NaN, and is quiet after narrowing. Source and target must not overlap.
//
// Widening takes eight values at a time. Narrowing takes four: with eight it would be 5 % faster, and its code 1.5
// times as long.

/** Conversions of four values between float16, in the lower half of each lane, and f32. */
@final
@unmanaged
export class Float16 {
  /**
   * Returns four values as f32. It shifts exponent and mantissa to their place, and multiplies by 2^112 for the
   * exponent's bias.
   */
  @inline widen(h: v128): v128 {
    const moved = i32x4.shl(v128.and(h, i32x4.splat(0x7fff)), 13);
    const finite = f32x4.mul(moved, i32x4.splat(0x77800000)); // 2^112, also for subnormals
    const isSpecial = i32x4.ge_s(moved, i32x4.splat(0x0f800000)); // infinity or NaN
    const exponent = v128.and(isSpecial, i32x4.splat(0x7f800000));
    const sign = i32x4.shl(v128.and(h, i32x4.splat(0x8000)), 16);
    return v128.or(v128.or(finite, exponent), sign);
  }

  /**
   * Returns four values of f32 rounded to float16. It adds a power of two whose last place is 2^13 units of the last
   * place of float16, so that the addition rounds. For values below float16's normal numbers, it takes the power of the
   * smallest exponent. Scaling by 2^112 and 2^-110 turns numbers that round beyond 65504 into infinity. The method is
   * that of Maratyszcza's FP16 library.
   */
  @inline narrow(f: v128): v128 {
    const magnitude = f32x4.mul(f32x4.mul(f32x4.abs(f), i32x4.splat(0x77800000)), i32x4.splat(0x08800000));
    const twice = i32x4.shl(f, 1);
    const exponent = i32x4.max_u(v128.and(twice, i32x4.splat(0xff000000)), i32x4.splat(0x71000000));
    const rounder = i32x4.add(i32x4.shr_u(exponent, 1), i32x4.splat(0x07800000));
    const rounded = f32x4.add(rounder, magnitude);
    const high = v128.and(i32x4.shr_u(rounded, 13), i32x4.splat(0x7c00));
    const value = i32x4.add(high, v128.and(rounded, i32x4.splat(0x0fff)));
    const sign = v128.and(i32x4.shr_u(f, 16), i32x4.splat(0x8000));
    return v128.or(sign, v128.bitselect(value, i32x4.splat(0x7e00), f32x4.eq(f, f)));
  }
}

/** Conversions of four values between bfloat16, in the lower half of each lane, and f32. */
@final
@unmanaged
export class BFloat16 {
  /** Returns four values as f32, whose upper half they are. */
  @inline widen(h: v128): v128 {
    return i32x4.shl(h, 16);
  }

  /**
   * Returns four values of f32 rounded to bfloat16. It adds 0x7fff, and 1 more if the last bit that stays is odd, and
   * cuts off.
   */
  @inline narrow(f: v128): v128 {
    const odd = v128.and(i32x4.shr_u(f, 16), i32x4.splat(1));
    const value = i32x4.add(f, i32x4.add(odd, i32x4.splat(0x7fff)));
    const quiet = v128.or(f, i32x4.splat(0x00400000));
    return i32x4.shr_u(v128.bitselect(value, quiet, f32x4.eq(f, f)), 16);
  }
}

/** Converts elements [begin, end) of 16 bits at `source` to f32 at `target`. */
export function widenFrom<H extends Float16>(source: usize, target: usize, begin: usize, end: usize): void {
  const half = changetype<H>(<usize>0);
  let a = source + begin * 2;
  let b = target + begin * 4;
  for (; begin + 8 <= end; begin += 8) {
    v128.store(b, half.widen(v128.load16x4_u(a)));
    v128.store(b, half.widen(v128.load16x4_u(a, 8)), 16);
    a += 16;
    b += 32;
  }
  for (; begin < end; ++begin) {
    v128.store32_lane(b, half.widen(i32x4.splat(load<u16>(a))), 0);
    a += 2;
    b += 4;
  }
}

/** Rounds elements [begin, end) of f32 at `source` to 16 bits at `target`. */
export function narrowTo<H extends Float16>(source: usize, target: usize, begin: usize, end: usize): void {
  const half = changetype<H>(<usize>0);
  let a = source + begin * 4;
  let b = target + begin * 2;
  for (; begin + 4 <= end; begin += 4) {
    const four = half.narrow(v128.load(a));
    v128.store64_lane(b, i16x8.narrow_i32x4_u(four, four), 0);
    a += 16;
    b += 8;
  }
  for (; begin < end; ++begin) {
    v128.store16_lane(b, half.narrow(v128.load32_zero(a)), 0);
    a += 4;
    b += 2;
  }
}
