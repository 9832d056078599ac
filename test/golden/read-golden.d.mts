export interface ArrayReference {
  dtype: "f32" | "f64" | "i64" | "i32" | "u8";
  shape: number[];
  offset: number;
  bytes: number;
}
export interface Pair {
  f64: ArrayReference;
  f32: ArrayReference;
}
// biome-ignore lint/suspicious/noExplicitAny: the manifest's cases differ by kind; README.md beside it describes them
export type Case = { id: string; kind: string; tags: string[]; params: any; in: any; out: any; torchErr?: any };
export declare function loadGolden(dir: string): {
  cases: Case[];
  /** A view of the stored array; the manifest's dtype says which kind. */
  // biome-ignore lint/suspicious/noExplicitAny: see above
  arr<T = Float32Array>(reference: any): T;
};
export declare function toChannelsLast<T>(a: T, N: number, C: number, S: number): T;
export declare function nw(
  a: ArrayLike<number>,
  reference: ArrayLike<number>,
  scale: ArrayLike<number>,
  channelOf: (index: number) => number,
  channels: number,
): { u: number; zero: number; cls: number };
export declare function procValue(p: number, s: number, seed: number, lo: number, hi: number): number;
