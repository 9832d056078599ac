// The batch norms of two networks, from their architectures: ResNet-50 (He et al. 2015, with the stride in the 3×3
// convolution as in torchvision) and MobileNetV2 (Sandler et al. 2018), for images of 224×224.

/** Bottleneck stages: width, blocks, and the stride of the first block. */
const RESNET50 = [
  { width: 64, blocks: 3, stride: 1 },
  { width: 128, blocks: 4, stride: 2 },
  { width: 256, blocks: 6, stride: 2 },
  { width: 512, blocks: 3, stride: 2 },
];

/** Inverted residuals: expansion t, output channels c, blocks n, and the stride s of the first, as table 2 of the paper. */
const MOBILENET_V2 = [
  { t: 1, c: 16, n: 1, s: 1 },
  { t: 6, c: 24, n: 2, s: 2 },
  { t: 6, c: 32, n: 3, s: 2 },
  { t: 6, c: 64, n: 4, s: 2 },
  { t: 6, c: 96, n: 3, s: 1 },
  { t: 6, c: 160, n: 3, s: 2 },
  { t: 6, c: 320, n: 1, s: 1 },
];

/** Every batch norm of ResNet-50 as { channels, side }, in the order of the layers. */
export function resnet50() {
  const norms = [{ channels: 64, side: 112 }];
  let side = 56; // after the max pooling
  for (const { width, blocks, stride } of RESNET50)
    for (let block = 0; block < blocks; block++) {
      norms.push({ channels: width, side });
      if (block === 0) side /= stride;
      norms.push({ channels: width, side }, { channels: 4 * width, side });
      if (block === 0) norms.push({ channels: 4 * width, side }); // of the shortcut
    }
  return norms;
}

/** Every batch norm of MobileNetV2 at width 1.0. */
export function mobileNetV2() {
  const norms = [{ channels: 32, side: 112 }];
  let [channels, side] = [32, 112];
  for (const { t, c, n, s } of MOBILENET_V2)
    for (let block = 0; block < n; block++) {
      const expanded = t * channels;
      if (t > 1) norms.push({ channels: expanded, side });
      if (block === 0) side /= s;
      norms.push({ channels: expanded, side }, { channels: c, side });
      channels = c;
    }
  return [...norms, { channels: 1280, side }];
}

/** The distinct shapes of a list of norms, in the order of the network, with how many `times` each occurs. */
export function distinct(norms, layout, batch) {
  const counts = new Map();
  for (const { channels, side } of norms) {
    const shape = layout === "channels-last" ? [batch, side, side, channels] : [batch, channels, side, side];
    counts.set(shape.join(), { shape, layout, times: (counts.get(shape.join())?.times ?? 0) + 1 });
  }
  return [...counts.values()];
}

export const networksOf = (batch) => [
  { title: "ResNet-50", layout: "channels-first", batch, norms: distinct(resnet50(), "channels-first", batch) },
  { title: "MobileNetV2", layout: "channels-last", batch, norms: distinct(mobileNetV2(), "channels-last", batch) },
];
