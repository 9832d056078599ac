/** What a host found; see check.js. */
export interface Checked {
  readonly build: "simd" | "relaxed" | "given";
  readonly cases: number;
  /** Largest distance of each output, in u. */
  readonly worst: Readonly<Record<string, number>>;
  /** Results beyond their gate. */
  readonly beyond: readonly string[];
  /** Of all bits, in the build that the library chose. */
  readonly ownDigest: string;
  /** The same in the build without fused multiply-add: equal everywhere. */
  readonly digest: string;
  /** Of activations, residuals, float64 and 16 bits: equal everywhere. */
  readonly extendedDigest: string;
  /** What the small entry found, where it was checked, too. */
  readonly core?: CoreChecked;
}

export interface CoreChecked {
  readonly ownDigest: string;
  readonly digest: string;
  /** Name and message of the error by which it refuses an activation. */
  readonly refusal: string;
}

export function check(
  library: unknown,
  golden: { manifest: unknown; data: ArrayBuffer },
  simd?: WebAssembly.Module,
  core?: unknown,
): Promise<Checked>;
