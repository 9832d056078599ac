// What happens to a value on its way to memory. A class here is a type argument of the channel-affine maps in affine.ts
// and vanishes at compile time. Activations and the residual sum belong here, one class each.

/** The value as it is. */
@final
@unmanaged
export class Identity {
  @inline apply<T>(value: v128): v128 {
    return value;
  }
}
