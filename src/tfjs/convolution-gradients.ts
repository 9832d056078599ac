// The kernels that TF.js's wasm backend lacks to train convolutional networks: the gradients of the filters of conv2d and
// depthwiseConv2d, and of the input of depthwiseConv2d. Each is composed of operations that the backend has.
//
// Tensors are [batch, height, width, channels]. In one dimension, with the padding p before the first row, the stride s and
// the dilation d, row `row` of y reads row `row·s + tap·d − p` of x through row `tap` of the filter. So
//
//   dFilter[tap] = Σ_row x[row·s + tap·d − p]·dy[row]       dx[r] = Σ_tap dy[(r + p − tap·d)/s]·filter[tap]
//
// The first is a convolution of x by dy, whose dilation is s and whose stride is d. The second is a convolution of dy, with
// s − 1 rows of zeros after every row, by the inverted filter, whose dilation is d.
//
// TF.js's wasm backend computes conv2d, and products of two matrices that are not transposed, by XNNPACK. Its products of
// transposed matrices and of batches of matrices are a scalar loop. So tensors are transposed first where that leads to
// XNNPACK. It sums in float32, one value of the filter's gradient after the other.

import * as tf from "@tensorflow/tfjs-core";

type Shape4D = [number, number, number, number];

/** A convolution along one axis of the image. */
interface Axis {
  /** Size of x and of y. */
  readonly input: number;
  readonly output: number;
  readonly taps: number;
  readonly stride: number;
  readonly dilation: number;
  /** Zeros before the first value of x. */
  readonly before: number;
}

type Convolution = ReturnType<typeof tf.backend_util.computeConv2DInfo>;

/** Returns the convolution along the two axes of the image, rows and columns. */
const axesOf = (info: Convolution): [Axis, Axis] => [
  {
    input: info.inHeight,
    output: info.outHeight,
    taps: info.filterHeight,
    stride: info.strideHeight,
    dilation: info.dilationHeight,
    before: info.padInfo.top,
  },
  {
    input: info.inWidth,
    output: info.outWidth,
    taps: info.filterWidth,
    stride: info.strideWidth,
    dilation: info.dilationWidth,
    before: info.padInfo.left,
  },
];

/** The zeros to put before and after the values of an axis. A negative number says how many values to leave out. */
type Margin = readonly [before: number, after: number];

/** Returns x without the rows and columns that negative margins leave out, and the margins that are left. */
function cropped(
  x: tf.Tensor4D,
  axis: number,
  margins: readonly Margin[],
): { x: tf.Tensor4D; padding: [number, number][] } {
  const begin = [0, 0, 0, 0] as Shape4D;
  const size = [...x.shape] as Shape4D;
  const padding = margins.map(([before, after], i): [number, number] => {
    begin[axis + i] = Math.max(0, -before);
    size[axis + i] = (size[axis + i] as number) + Math.min(0, before) + Math.min(0, after);
    return [Math.max(0, before), Math.max(0, after)];
  });
  return { x: size.every((length, i) => length === x.shape[i]) ? x : tf.slice(x, begin, size), padding };
}

/** Returns the margins with which x has `length` values along each axis, from the padding of the convolution on. */
const marginsTo = (axes: readonly Axis[], length: (axis: Axis) => number): Margin[] =>
  axes.map((axis) => [axis.before, length(axis) - axis.input - axis.before]);

/**
 * Returns, for every tap of the filter, the values of x that it reads, [channels, values] in the order of the rows, columns
 * and samples of y. `isLast` says that the channels of x are on its last axis, not on axis 1.
 */
function windowsOf(
  x: tf.Tensor4D,
  isLast: boolean,
  axes: readonly [Axis, Axis],
): (row: number, column: number) => tf.Tensor {
  const [rows, columns] = axes;
  // tap t reads the values t·dilation + y·stride: a slice of those with one remainder by the stride
  const length = ({ taps, dilation, stride, output }: Axis) => Math.floor(((taps - 1) * dilation) / stride) + output;
  const [height, width] = [length(rows), length(columns)];
  const margins = marginsTo(axes, (axis) => length(axis) * axis.stride);
  const { x: inner, padding } = cropped(x, isLast ? 1 : 2, margins);
  const outside: [number, number][] = isLast ? [[0, 0], ...padding, [0, 0]] : [[0, 0], [0, 0], ...padding];
  const padded = padding.flat().some((zeros) => zeros > 0) ? tf.pad(inner, outside) : inner;
  const batch = x.shape[0];
  const channels = x.shape[isLast ? 3 : 1];
  const image = [height, rows.stride, width, columns.stride];
  const remainders = isLast
    ? tf.transpose(tf.reshape(padded, [batch, ...image, channels]), [2, 4, 5, 1, 3, 0])
    : tf.transpose(tf.reshape(padded, [batch, channels, ...image]), [3, 5, 1, 2, 4, 0]);
  // slice copies row by row in JavaScript, so that rows are as long as can be
  const planes = tf.reshape(remainders, [rows.stride * columns.stride * channels, height, width * batch]);
  return (row, column) => {
    const [r, c] = [row * rows.dilation, column * columns.dilation];
    const remainder = (r % rows.stride) * columns.stride + (c % columns.stride);
    const first = [Math.floor(r / rows.stride), Math.floor(c / columns.stride) * batch] as const;
    const size = [rows.output, columns.output * batch] as const;
    return tf.reshape(tf.slice(planes, [remainder * channels, ...first], [channels, ...size]), [channels, -1]);
  };
}

/** Returns what `gradient` computes for every tap, row by row, in the shape of the filter. */
function ofEveryTap(
  [rows, columns]: readonly [Axis, Axis],
  shape: Shape4D,
  gradient: (row: number, column: number) => tf.Tensor,
): tf.Tensor {
  const taps = Array.from({ length: rows.taps * columns.taps }, (_, i) =>
    tf.tidy(() => gradient(Math.floor(i / columns.taps), i % columns.taps)),
  );
  return tf.reshape(tf.stack(taps), shape);
}

/** Whether the convolution reads any value of x. A padding may be larger than x and the filter. */
const readsInput = (axes: readonly Axis[]): boolean =>
  axes.every(({ output, stride, taps, dilation, before }) => (output - 1) * stride + (taps - 1) * dilation >= before);

/**
 * The gradient of conv2d's filter, [height, width, inputs, outputs]. Beside its result it takes memory for a transposed
 * copy of x and about three times dy: the transposed one, and the two copies that XNNPACK makes of a filter.
 */
function conv2dFilterGradient(x: tf.Tensor4D, dy: tf.Tensor4D, attributes: tf.Conv2DBackpropFilterAttrs): tf.Tensor {
  const { strides, pad: padding, dataFormat, dimRoundingMode, filterShape } = attributes;
  const format = tf.backend_util.convertConv2DDataFormat(dataFormat);
  const info = tf.backend_util.computeConv2DInfo(
    x.shape,
    filterShape as Shape4D,
    strides,
    1,
    padding,
    dimRoundingMode,
    false,
    format,
  );
  const axes = axesOf(info);
  if (x.size === 0 || dy.size === 0 || !readsInput(axes)) return tf.zeros(filterShape as Shape4D);
  const isLast = format === "channelsLast";
  const filter = tf.transpose(dy, isLast ? [1, 2, 0, 3] : [2, 3, 0, 1]);
  const [rows, columns] = axes;
  if (rows.taps * columns.taps === 1) {
    // XNNPACK computes four rows of a product of matrices together, but only one position of an image of one position
    const matrix = tf.reshape(filter, [-1, info.outChannels]);
    const windows = windowsOf(x, isLast, axes);
    return ofEveryTap(axes, filterShape as Shape4D, (row, column) => tf.matMul(windows(row, column), matrix));
  }
  const images = tf.transpose(x, isLast ? [3, 1, 2, 0] : [1, 2, 3, 0]);
  const { x: inner, padding: margins } = cropped(
    images,
    1,
    marginsTo(axes, ({ taps, output, stride }) => taps + (output - 1) * stride),
  );
  const explicit = [[0, 0], ...margins, [0, 0]] as Parameters<typeof tf.conv2d>[3];
  const gradient = tf.conv2d(inner, filter as tf.Tensor4D, 1, explicit, "NHWC", [rows.stride, columns.stride]);
  return tf.transpose(gradient, [1, 2, 0, 3]);
}

/**
 * The gradient of depthwiseConv2d's filter, [height, width, channels, multiplier]. Beside its result it takes memory for a
 * transposed copy of dy, two copies of x with its padding, and for the values that one tap reads, as many as dy has.
 */
function depthwiseFilterGradient(
  x: tf.Tensor4D,
  dy: tf.Tensor4D,
  { strides, dilations, pad: padding, dimRoundingMode, filterShape }: tf.DepthwiseConv2dNativeBackpropFilterAttrs,
): tf.Tensor {
  const shape = filterShape as Shape4D;
  const info = tf.backend_util.computeConv2DInfo(x.shape, shape, strides, dilations, padding, dimRoundingMode, true);
  const axes = axesOf(info);
  if (x.size === 0 || dy.size === 0 || !readsInput(axes)) return tf.zeros(shape);
  const [, , channels, multiplier] = shape;
  const windows = windowsOf(x, true, axes);
  const upstream = tf.reshape(tf.transpose(dy, [3, 1, 2, 0]), [channels, multiplier, -1]);
  return ofEveryTap(axes, shape, (row, column) =>
    tf.matMul(tf.reshape(windows(row, column), [channels, 1, -1]), upstream, false, true),
  );
}

/** Returns dy with stride − 1 zeros after every row and every column. */
function withStrides(dy: tf.Tensor4D, [rows, columns]: readonly [Axis, Axis]): tf.Tensor4D {
  const [batch, height, width, channels] = dy.shape;
  // matrices, whose padding is one copy
  const insertAfter = (t: tf.Tensor, length: number, zerosAfter: number) =>
    zerosAfter === 0
      ? t
      : tf.pad(tf.reshape(t, [-1, length]), [
          [0, 0],
          [0, zerosAfter * length],
        ]);
  const taller = insertAfter(dy, width * channels, rows.stride - 1);
  const wider = insertAfter(taller, channels, columns.stride - 1);
  return tf.reshape(wider, [batch, height * rows.stride, width * columns.stride, channels]);
}

/**
 * The gradient of depthwiseConv2d's input. Beside its result it takes memory for dy with the zeros of the strides, and with
 * a multiplier above 1 for that many times dx.
 */
function depthwiseInputGradient(
  dy: tf.Tensor4D,
  filter: tf.Tensor4D,
  { strides, dilations, pad: padding, dimRoundingMode, inputShape }: tf.DepthwiseConv2dNativeBackpropInputAttrs,
): tf.Tensor {
  const shape = inputShape as Shape4D;
  const info = tf.backend_util.computeConv2DInfo(
    shape,
    filter.shape,
    strides,
    dilations,
    padding,
    dimRoundingMode,
    true,
  );
  const axes = axesOf(info);
  if (dy.size === 0) return tf.zeros(shape);
  const [height, width, channels, multiplier] = filter.shape;
  const margins = axes.map(({ input, output, taps, stride, dilation, before }): Margin => {
    const reach = (taps - 1) * dilation;
    return [reach - before, input + before - output * stride];
  });
  const { x, padding: explicit } = cropped(withStrides(dy, axes), 1, margins);
  const products = tf.depthwiseConv2d(
    x,
    tf.reshape(tf.reverse(filter, [0, 1]), [height, width, channels * multiplier, 1]),
    1,
    [[0, 0], ...explicit, [0, 0]] as Parameters<typeof tf.depthwiseConv2d>[3],
    "NHWC",
    [info.dilationHeight, info.dilationWidth],
  );
  return multiplier === 1 ? products : tf.sum(tf.reshape(products, [...shape, multiplier]), -1);
}

/** Returns a kernel of TF.js that calls a function of two tensors, whose names TF.js decides, and frees what it leaves. */
const kernelOf =
  <A>(
    first: string,
    second: string,
    gradient: (first: tf.Tensor4D, second: tf.Tensor4D, attributes: A) => tf.Tensor,
  ): tf.KernelFunc =>
  ({ inputs, attrs }) =>
    tf.tidy(() => gradient(inputs[first] as tf.Tensor4D, inputs[second] as tf.Tensor4D, attrs as unknown as A));

/** The kernels by TF.js's names. */
export const CONVOLUTION_GRADIENTS: readonly (readonly [name: string, kernel: tf.KernelFunc])[] = [
  [tf.Conv2DBackpropFilter, /* @__PURE__ */ kernelOf("x", "dy", conv2dFilterGradient)],
  [tf.DepthwiseConv2dNativeBackpropFilter, /* @__PURE__ */ kernelOf("x", "dy", depthwiseFilterGradient)],
  [tf.DepthwiseConv2dNativeBackpropInput, /* @__PURE__ */ kernelOf("dy", "filter", depthwiseInputGradient)],
];
