// main WASM GOLDEN: a small training run, the golden cases, and one step timed beside plain C.

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "batchnorm.h"
#include "plain.h"

enum { REPETITIONS = 15 };

static double noise(void) { // xorshift64*: uniform in (-1, 1)
  static uint64_t state = 1;
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (double)(state * 0x2545F4914F6CDD1D >> 11) / (double)(1ULL << 52) - 1;
}

// Training

// The mean squared error, whose gradient goes to dy.
static double loss(const float *y, const double *target, float *dy, size_t length, size_t channels) {
  double sum = 0;
  for (size_t i = 0; i < length; i++) {
    double error = y[i] - target[i];
    sum += error * error;
    dy[i] = (float)(2 * error * (double)channels / (double)length);
  }
  return sum / (double)length;
}

// Learns the gamma and beta of a teacher from its outputs. The inputs are far from standardised.
static void train(Kernels *kernels) {
  enum { STEPS = 200, OUTER = 16, CHANNELS = 8, INNER = 100, LENGTH = OUTER * CHANNELS * INNER };
  BatchNorm layer;
  batchnorm_init(&layer, kernels, (Geometry){OUTER, CHANNELS, INNER});
  float *x = kernels_zeros(kernels, LENGTH * sizeof(float)), *dy = kernels_zeros(kernels, LENGTH * sizeof(float));
  static double target[LENGTH];
  struct { double centre, spread, gamma, beta; } teacher[CHANNELS];
  for (int c = 0; c < CHANNELS; c++) {
    teacher[c].centre = 50 * noise();
    teacher[c].spread = 2 + noise();
    teacher[c].gamma = noise();
    teacher[c].beta = noise();
  }

  double first = 0, last = 0;
  for (int step = 0; step < STEPS; step++) {
    for (int i = 0; i < LENGTH; i++) {
      int c = i / INNER % CHANNELS;
      double value = noise(); // of variance 1/3
      x[i] = (float)(teacher[c].centre + teacher[c].spread * value);
      target[i] = teacher[c].gamma * sqrt(3) * value + teacher[c].beta;
    }
    batchnorm_train(&layer, x);
    last = loss(layer.y, target, dy, LENGTH, CHANNELS);
    if (step == 0) first = last;
    batchnorm_backward(&layer, x, dy);
    batchnorm_step(&layer, 0.5);
  }
  batchnorm_infer(&layer, x);
  double held_out = loss(layer.y, target, dy, LENGTH, CHANNELS);
  batchnorm_backward(&layer, x, dy); // running statistics are constants of a last step on the same batch
  batchnorm_step(&layer, 0.5);
  batchnorm_infer(&layer, x);
  double frozen = loss(layer.y, target, dy, LENGTH, CHANNELS);
  printf("training: loss %.3f -> %.5f in %d steps, %.5f in inference, %.1e after a frozen step\n", first, last, STEPS,
         held_out, frozen);
  if (!(last < first / 50 && held_out < first / 50)) die("training: the loss did not fall to a fiftieth");
  if (!(frozen < held_out)) die("training: the loss did not fall in a frozen step");
}

// Golden cases

enum { OUTPUTS = 8 };

// The outputs of a step, and the largest error allowed in u, which the golden cases define.
static const struct { const char *name; double gate; } GATES[OUTPUTS] = {
    {"y", 4},    {"dx", 4},       {"dGamma", 1},      {"dBeta", 1},
    {"mean", 1}, {"variance", 1}, {"runningMean", 1}, {"runningVariance", 1},
};

static uint8_t *golden_bytes;
static size_t golden_length, golden_at;

// The next values of the file, in place. It has zeros before each float64 up to a multiple of 8.
static const void *take(size_t count, size_t size) {
  if (size == 8) golden_at = (golden_at + 7) / 8 * 8;
  const void *values = golden_bytes + golden_at;
  golden_at += count * size;
  if (golden_at > golden_length) die("golden: the file ends within a case");
  return values;
}

// Holds every case against its float64 references, and its bits against those that Node computed.
static uint32_t golden(Kernels *kernels, const char *path, double worst[OUTPUTS]) {
  golden_bytes = read_file(path, &golden_length);
  uint32_t cases = *(const uint32_t *)take(1, 4);
  if (!cases) die("golden: there is no case");
  for (uint32_t k = 0; k < cases; k++) {
    take(0, 8); // aligns
    const uint32_t *dims = take(4, 4);
    size_t channels = dims[1], length = (size_t)dims[0] * dims[1] * dims[2];
    BatchNorm b;
    batchnorm_init(&b, kernels, (Geometry){dims[0], dims[1], dims[2]});
    b.epsilon = *(const double *)take(1, 8);
    b.momentum = *(const double *)take(1, 8);
    float *x = kernels_zeros(kernels, length * 4), *dy = kernels_zeros(kernels, length * 4);
    memcpy(x, take(length, 4), length * 4);
    memcpy(dy, take(length, 4), length * 4);
    memcpy(b.gamma, take(channels, 4), channels * 4);
    memcpy(b.beta, take(channels, 4), channels * 4);
    memcpy(b.running_mean, take(channels, 8), channels * 8);
    memcpy(b.running_variance, take(channels, 8), channels * 8);
    const double *references[OUTPUTS], *scales[OUTPUTS];
    for (int o = 0; o < OUTPUTS; o++) references[o] = take(o < 2 ? length : channels, 8);
    for (int o = 0; o < OUTPUTS; o++) scales[o] = take(channels, 8);

    batchnorm_train(&b, x);
    batchnorm_backward(&b, x, dy);

    const void *got[OUTPUTS] = {b.y, b.dx, b.d_gamma, b.d_beta, b.mean, b.variance, b.running_mean, b.running_variance};
    for (int o = 0; o < 4; o++) {
      size_t count = o < 2 ? length : channels, size = o < 2 ? 4 : 8;
      if (memcmp(got[o], take(count, size), count * size))
        die("golden: case %u [%u, %u, %u]: %s has other bits than in Node", k, dims[0], dims[1], dims[2], GATES[o].name);
    }
    for (int o = 0; o < OUTPUTS; o++) {
      for (size_t i = 0; i < (o < 2 ? length : channels); i++) {
        double value = o < 2 ? ((const float *)got[o])[i] : ((const double *)got[o])[i];
        double scale = scales[o][o < 2 ? i / dims[2] % channels : i];
        double u = fabs(value - references[o][i]) / fmax(ldexp(scale, -24), ldexp(1, -149));
        if (!(u <= GATES[o].gate))
          die("golden: case %u [%u, %u, %u]: %s[%zu] is %.2f u off, allowed are %g", k, dims[0], dims[1], dims[2],
              GATES[o].name, i, u, GATES[o].gate);
        worst[o] = fmax(worst[o], u);
      }
    }
  }
  free(golden_bytes);
  printf("golden: %u cases, bits as in Node, largest errors in u:", cases);
  for (int o = 0; o < OUTPUTS; o++) printf(" %s %.2f%s", GATES[o].name, worst[o], o < OUTPUTS - 1 ? "," : "\n");
  return cases;
}

// Timing

static double now(void) { // ms
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double difference = *(const double *)a - *(const double *)b;
  return (difference > 0) - (difference < 0);
}

static double median(double *times) {
  qsort(times, REPETITIONS, sizeof(double), ascending);
  return times[REPETITIONS / 2];
}

static float apart(const float *a, const float *b, size_t length) {
  float most = 0;
  for (size_t i = 0; i < length; i++) most = fmaxf(most, fabsf(a[i] - b[i]));
  return most;
}

static const uint32_t SHAPE[] = {32, 64, 56, 56};

// Medians in milliseconds of forward + running statistics + backward: the kernels, and plain C on the same data.
static void race(Kernels *kernels, double *ours, double *theirs) {
  Geometry g = {SHAPE[0], SHAPE[1], SHAPE[2] * SHAPE[3]};
  size_t length = (size_t)g.outer * g.channels * g.inner, size = length * sizeof(float);
  BatchNorm layer;
  batchnorm_init(&layer, kernels, g);
  float *x = kernels_zeros(kernels, size), *dy = kernels_zeros(kernels, size);
  for (size_t i = 0; i < length; i++) x[i] = (float)noise();
  for (size_t i = 0; i < length; i++) dy[i] = (float)noise();
  Plain plain;
  plain_init(&plain, g.outer, g.channels, g.inner);

  double times[2][REPETITIONS];
  for (int r = -1; r < REPETITIONS; r++) { // the first to warm up
    double begin = now();
    batchnorm_train(&layer, x);
    batchnorm_backward(&layer, x, dy);
    double between = now();
    plain_step(&plain, x, dy, layer.gamma, layer.beta, layer.epsilon, layer.momentum);
    if (r >= 0) times[0][r] = between - begin, times[1][r] = now() - between;
  }
  float y_apart = apart(layer.y, plain.y, length), dx_apart = apart(layer.dx, plain.dx, length);
  if (!(y_apart < 1e-4f && dx_apart < 1e-4f)) die("race: y and plain C's are %g apart, dx %g", y_apart, dx_apart);
  plain_free(&plain);
  *ours = median(times[0]);
  *theirs = median(times[1]);
  printf("one step of [32, 64, 56, 56]: %.1f ms, plain C %.1f ms (%.1fx)\n", *ours, *theirs, *theirs / *ours);
}

int main(int argc, char **argv) {
  if (argc != 3) die("usage: main WASM GOLDEN");
  Kernels kernels;
  kernels_load(&kernels, argv[1]);
  train(&kernels);
  double worst[OUTPUTS] = {0}, ours, theirs;
  uint32_t cases = golden(&kernels, argv[2], worst);
  race(&kernels, &ours, &theirs);
  kernels_free(&kernels);

  printf("{\"host\":\"C\",\"engine\":\"wasmtime %s\",\"cases\":%u,\"maxU\":{", WASMTIME_VERSION, cases);
  for (int o = 0; o < OUTPUTS; o++) printf("%s\"%s\":%.3f", o ? "," : "", GATES[o].name, worst[o]);
  printf("},\"equalBits\":true,\"shape\":[%u,%u,%u,%u],\"stepMs\":%.2f,\"native\":\"plain C\",\"nativeMs\":%.2f}\n", SHAPE[0],
         SHAPE[1], SHAPE[2], SHAPE[3], ours, theirs);
}
