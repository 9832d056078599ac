// 16-bit storage: converts elements [begin, end) between 16 bits and f32. There is no arithmetic in 16 bits, because
// all other kernels work on f32 and f64.
//
//   float16    s eeeee mmmmmmmmmm          2^-24 … 65504, 11 bits
//   bfloat16   s eeeeeeee mmmmmmm          the upper half of an f32, 8 bits
//
// Widening is exact. Narrowing rounds to nearest, ties to even, and numbers that are too large become infinity. NaN
// stays NaN, and is quiet after narrowing. Source and target must not overlap.
//
// Eight values at a time take a short way if it is right for all of them. It is wrong for infinity and NaN of float16,
// and when narrowing for NaN and for what float16 cannot hold. A group of eight with such a value is converted value by
// value, as the last values are. The short way takes 0.45 to 0.8 of the time of the other one, four values at a time.

/** Conversions between float16, in the lower half of a 32-bit lane, and f32. */
@final
@unmanaged
export class Float16 {
  /** Returns whether `widenFinite` is right for the eight values at `source`. */
  @inline areFinite(source: usize): bool {
    return !v128.bitmask<i8>(i16x8.gt_s(v128.and(v128.load(source), i16x8.splat(0x7fff)), i16x8.splat(0x7bff)));
  }

  /** Returns four finite values, with their signs extended, as f32. The product also normalises subnormal values. */
  @inline widenFinite(h: v128): v128 {
    return f32x4.mul(v128.and(i32x4.shl(h, 13), i32x4.splat(0x8fffe000)), i32x4.splat(0x77800000)); // 2^112
  }

  /**
   * Rounds eight values to float16 at `target` and returns true, if all are less than 65536 in size. Otherwise it
   * returns false. It rounds by addition, as `narrow` does, but the power of two has the sign of the value. Exponents
   * and signs are computed from the upper halves, which are eight lanes of one vector.
   */
  @inline narrowEight(a: v128, b: v128, target: usize): bool {
    const upper = i16x8.narrow_i32x4_u(i32x4.shr_u(a, 16), i32x4.shr_u(b, 16));
    // counted from the exponent of the smallest normal number, 2^-14; 0 for smaller numbers
    const exponent = i16x8.sub_sat_u(v128.and(upper, i16x8.splat(0x7f80)), i16x8.splat(0x3880));
    if (v128.bitmask<i8>(i16x8.gt_s(exponent, i16x8.splat(0x0eff)))) return false;
    const sign = v128.and(upper, i16x8.splat(-0x8000));
    const rounder = i16x8.add(exponent, v128.or(sign, i16x8.splat(0x3f00))); // 2^13 times the power
    const zero = i16x8.splat(0);
    const low = f32x4.add(a, v128.shuffle<i16>(zero, rounder, 0, 8, 1, 9, 2, 10, 3, 11));
    const high = f32x4.add(b, v128.shuffle<i16>(zero, rounder, 4, 12, 5, 13, 6, 14, 7, 15));
    const mask = i32x4.splat(0x0fff);
    const digits = i16x8.narrow_i32x4_u(v128.and(low, mask), v128.and(high, mask));
    v128.store(target, v128.or(i16x8.add(digits, i16x8.shl(exponent, 3)), sign));
    return true;
  }

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

/** Conversions between bfloat16, in the lower half of a 32-bit lane, and f32. */
@final
@unmanaged
export class BFloat16 {
  /** Returns true, because `widenFinite` is right for all values. */
  @inline areFinite(_source: usize): bool {
    return true;
  }

  /** Returns four values, with their signs extended, as f32. */
  @inline widenFinite(h: v128): v128 {
    return this.widen(h);
  }

  /**
   * Returns four values that are not NaN, rounded to bfloat16 in the upper half of each lane. It adds 0x7fff, and 1 more
   * if the last bit that stays is odd.
   */
  @inline rounded(f: v128): v128 {
    const odd = v128.and(i32x4.shr_u(f, 16), i32x4.splat(1));
    return i32x4.add(f, i32x4.add(odd, i32x4.splat(0x7fff)));
  }

  /** Rounds eight values to bfloat16 at `target` and returns true, if none is NaN. Otherwise it returns false. */
  @inline narrowEight(a: v128, b: v128, target: usize): bool {
    const sum = f32x4.add(a, b); // infinities of either sign have the sum NaN, too
    if (v128.bitmask<i32>(f32x4.ne(sum, sum))) return false;
    const low = i32x4.shr_u(this.rounded(a), 16);
    v128.store(target, i16x8.narrow_i32x4_u(low, i32x4.shr_u(this.rounded(b), 16)));
    return true;
  }

  /** Returns four values as f32, whose upper half they are. */
  @inline widen(h: v128): v128 {
    return i32x4.shl(h, 16);
  }

  /** Returns four values of f32 rounded to bfloat16. */
  @inline narrow(f: v128): v128 {
    const quiet = v128.or(f, i32x4.splat(0x00400000));
    return i32x4.shr_u(v128.bitselect(this.rounded(f), quiet, f32x4.eq(f, f)), 16);
  }
}

/** Converts elements [begin, end) of 16 bits at `source` to f32 at `target`. */
export function widenFrom<H extends Float16>(source: usize, target: usize, begin: usize, end: usize): void {
  const half = changetype<H>(<usize>0);
  let a = source + begin * 2;
  let b = target + begin * 4;
  while (begin < end) {
    for (; begin + 8 <= end && half.areFinite(a); begin += 8) {
      v128.store(b, half.widenFinite(v128.load16x4_s(a)));
      v128.store(b, half.widenFinite(v128.load16x4_s(a, 8)), 16);
      a += 16;
      b += 32;
    }
    for (const next = min(begin + 8, end); begin < next; ++begin) {
      v128.store32_lane(b, half.widen(i32x4.splat(load<u16>(a))), 0);
      a += 2;
      b += 4;
    }
  }
}

/** Rounds elements [begin, end) of f32 at `source` to 16 bits at `target`. */
export function narrowTo<H extends Float16>(source: usize, target: usize, begin: usize, end: usize): void {
  const half = changetype<H>(<usize>0);
  let a = source + begin * 4;
  let b = target + begin * 2;
  while (begin < end) {
    for (; begin + 8 <= end && half.narrowEight(v128.load(a), v128.load(a, 16), b); begin += 8) {
      a += 32;
      b += 16;
    }
    for (const next = min(begin + 8, end); begin < next; ++begin) {
      v128.store16_lane(b, half.narrow(v128.load32_zero(a)), 0);
      a += 4;
      b += 2;
    }
  }
}
