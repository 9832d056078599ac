// Bounds of what compressed data may become, so that a small file cannot ask for much memory.

/** The most that deflate's format can make of one byte. */
const RATIO = 1032;
/**
 * The most bytes that are decompressed at once. It is a chosen value. Keras itself compresses nothing, so that its files have
 * no such limit.
 */
export const MOST_INFLATED = 2 ** 28;

/** Returns the most bytes that compressed bytes may become. */
export const inflated = (stored: number) => Math.min(MOST_INFLATED, RATIO * (stored + 1));
