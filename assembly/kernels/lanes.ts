// Operations on one v128 of T that loops need and that the built-ins v128.*<T> do not have. Loops are elsewhere, and
// nothing here depends on what is being computed.

/** Lane arithmetic for every element type T. */
export abstract class Lanes {
  /** Returns the number of elements of T in one vector. */
  @inline static count<T>(): usize {
    return 16 / sizeof<T>();
  }

  /** Returns the offset in bytes of an index in an array of T. */
  @inline static bytes<T>(index: usize): usize {
    return index << alignof<T>();
  }

  /** Returns a·b + c. It rounds once in the build with fused multiply-add, and twice in the others. */
  @inline static madd<T>(a: v128, b: v128, c: v128): v128 {
    if (ASC_FEATURE_RELAXED_SIMD) return v128.relaxed_madd<T>(a, b, c);
    return v128.add<T>(v128.mul<T>(a, b), c);
  }

  /** Returns the sum of two lanes of f64. */
  @inline static sum(v: v128): f64 {
    return f64x2.extract_lane(v, 0) + f64x2.extract_lane(v, 1);
  }

  /** Returns the vector with its halves swapped. */
  @inline static swapHalves(v: v128): v128 {
    return v128.shuffle<u64>(v, v, 1, 0);
  }

  /** Returns four f32 with the lanes of each half swapped. */
  @inline static swapQuarters(v: v128): v128 {
    return v128.shuffle<u32>(v, v, 1, 0, 3, 2);
  }

  /** Returns the sum of all lanes, in every lane. */
  @inline static horizontalSum<T extends number>(v: v128): v128 {
    const halves = v128.add<T>(v, Lanes.swapHalves(v));
    return sizeof<T>() == 4 ? v128.add<T>(halves, Lanes.swapQuarters(halves)) : halves;
  }

  /** Returns the largest of all lanes, in every lane. */
  @inline static horizontalMax<T extends number>(v: v128): v128 {
    const halves = v128.pmax<T>(v, Lanes.swapHalves(v));
    return sizeof<T>() == 4 ? v128.pmax<T>(halves, Lanes.swapQuarters(halves)) : halves;
  }

  /** Returns whether sums of T are accumulated in f64, a wider type. Otherwise T is f64, and sums are compensated. */
  @inline static accumulatesInF64<T>(): bool {
    return sizeof<T>() == 4;
  }

  /**
   * Returns the exact rounding error of sum = a + b, for two lanes of f64 (Knuth's TwoSum). It is NaN if the sum is not
   * finite.
   */
  @inline static roundingError(a: v128, b: v128, sum: v128): v128 {
    const c = f64x2.sub(sum, a);
    return f64x2.add(f64x2.sub(a, f64x2.sub(sum, c)), f64x2.sub(b, c));
  }

  /** Returns the sums plus their rounding errors. An infinite sum has the error NaN, and is returned unchanged. */
  @inline static compensated(sum: v128, error: v128): v128 {
    const corrected = f64x2.add(sum, error);
    return v128.bitselect(corrected, sum, f64x2.eq(corrected, corrected));
  }

  /** Returns lanes 0 and 1 of four f32, as f64. */
  @inline static low(v: v128): v128 {
    return f64x2.promote_low_f32x4(v);
  }

  /** Returns lanes 2 and 3 of four f32, as f64. */
  @inline static high(v: v128): v128 {
    return f64x2.promote_low_f32x4(v128.shuffle<u64>(v, v, 1, 1));
  }
}

/** The width of one step of a loop: a whole vector. */
@final
@unmanaged
export class Whole {
  @inline bytes<T>(): usize {
    return 16;
  }

  @inline load<T>(pointer: usize): v128 {
    return v128.load(pointer);
  }

  @inline store<T>(pointer: usize, v: v128): void {
    v128.store(pointer, v);
  }
}

/** The width of one step of a loop: one element, in lane 0. The other lanes are loaded as zero and not stored. */
@final
@unmanaged
export class Single {
  @inline bytes<T>(): usize {
    return sizeof<T>();
  }

  @inline load<T>(pointer: usize): v128 {
    return sizeof<T>() == 4 ? v128.load32_zero(pointer) : v128.load64_zero(pointer);
  }

  @inline store<T>(pointer: usize, v: v128): void {
    if (sizeof<T>() == 4) v128.store32_lane(pointer, v, 0);
    else v128.store64_lane(pointer, v, 0);
  }
}
