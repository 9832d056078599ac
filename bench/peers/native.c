// Peer: batch normalization in C on several threads, which shows what threads gain on this machine. Planar tensors are
// summed and mapped channel by channel, others by rows; threads take equal shares of the channels or rows.
//
//   native FOLDER OUTER CHANNELS INNER THREADS EPSILON
//
// reads x, dy and vectors (gamma, beta, mean, variance) from the folder, float32. Each line of stdin, "OPERATION REPEATS",
// is answered by the milliseconds of a call. 0 repeats write the results to the folder instead.

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/** Rows whose sums stay in float32 before they go to float64. */
enum { ROWS = 64 };

static size_t outer, channels, inner;
static int threads, operation, repeats;
static double epsilon;
static float *x, *dy, *y, *dx, *vectors;
/** [C] each: mean and invStd of x, the sums of moments or gradients, and the coefficients of the map. */
static double *mean, *invStd, *first, *second;
static float *coefficients, *pivots;
/** Sums of the rows of each thread, [threads][2][C]. */
static double *rowSums;
static pthread_barrier_t gate;
static atomic_int arrived, round_;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}

/** Waits for all threads, awake at first. */
static void meet(void) {
  int before = atomic_load(&round_);
  if (atomic_fetch_add(&arrived, 1) == threads - 1) {
    atomic_store(&arrived, 0);
    atomic_fetch_add(&round_, 1);
  } else
    for (int spins = 0; atomic_load(&round_) == before; spins++)
      if (spins > 10000) sched_yield();
}

/** Adds Σ u and Σ u·d of n values, where d = x − pivot, and u is d or dy. */
static void sumRun(const float *a, const float *u, size_t n, float pivot, double *s, double *q) {
  float sum = 0, dot = 0;
  if (u)
    for (size_t i = 0; i < n; i++) sum += u[i], dot += u[i] * (a[i] - pivot);
  else
    for (size_t i = 0; i < n; i++) sum += a[i] - pivot, dot += (a[i] - pivot) * (a[i] - pivot);
  *s += sum;
  *q += dot;
}

/** The same sums of rows [begin, end), of every channel. */
static void sumRows(size_t begin, size_t end, const float *u, double *s, double *q) {
  float *sum = malloc(channels * 4), *dot = malloc(channels * 4);
  for (size_t block = begin; block < end; block += ROWS) {
    memset(sum, 0, channels * 4);
    memset(dot, 0, channels * 4);
    for (size_t r = block; r < end && r < block + ROWS; r++) {
      const float *restrict a = x + r * channels, *restrict b = u ? u + r * channels : 0;
      float *restrict ss = sum, *restrict qq = dot;
      if (b)
        for (size_t c = 0; c < channels; c++) ss[c] += b[c], qq[c] += b[c] * (a[c] - pivots[c]);
      else
        for (size_t c = 0; c < channels; c++) ss[c] += a[c] - pivots[c], qq[c] += (a[c] - pivots[c]) * (a[c] - pivots[c]);
    }
    for (size_t c = 0; c < channels; c++) s[c] += sum[c], q[c] += dot[c];
  }
  free(sum);
  free(dot);
}

/** Turns the sums of a channel into the coefficients of its map: x·k[0] + dy·k[1] + k[2]. */
static void finish(size_t c, double s, double q) {
  double m = outer * inner, gamma = vectors[c], beta = vectors[channels + c];
  float *k = coefficients;
  double mu = vectors[2 * channels + c], inv = 1 / sqrt(vectors[3 * channels + c] + epsilon);
  if (operation == 1) {
    double delta = s / m;
    mu = mean[c] = pivots[c] + delta;
    inv = invStd[c] = 1 / sqrt(q / m - delta * delta + epsilon);
  }
  if (operation < 2) {
    k[c] = gamma * inv;
    k[2 * channels + c] = beta - mu * gamma * inv;
  } else {
    inv = invStd[c];
    first[c] = s;
    second[c] = (q - (mean[c] - pivots[c]) * s) * inv;
    k[c] = -gamma * inv * inv * second[c] / m;
    k[channels + c] = gamma * inv;
    k[2 * channels + c] = gamma * inv * (-s / m + mean[c] * inv * second[c] / m);
  }
}

static void mapRun(size_t at, size_t n, float kx, float kd, float shift) {
  const float *restrict a = x + at, *restrict b = dy + at;
  float *restrict to = (operation < 2 ? y : dx) + at;
  if (operation < 2)
    for (size_t i = 0; i < n; i++) to[i] = a[i] * kx + shift;
  else
    for (size_t i = 0; i < n; i++) to[i] = a[i] * kx + b[i] * kd + shift;
}

static void mapRow(size_t r) {
  const float *restrict a = x + r * channels, *restrict b = dy + r * channels, *restrict k = coefficients;
  const float *restrict kd = k + channels, *restrict shift = kd + channels;
  float *restrict to = (operation < 2 ? y : dx) + r * channels;
  if (operation < 2)
    for (size_t c = 0; c < channels; c++) to[c] = a[c] * k[c] + shift[c];
  else
    for (size_t c = 0; c < channels; c++) to[c] = a[c] * k[c] + b[c] * kd[c] + shift[c];
}

/** One call, on thread t. */
static void call(int t) {
  const float *u = operation == 2 ? dy : 0;
  size_t units = inner > 1 ? channels : outer, begin = units * t / threads, end = units * (t + 1) / threads;
  if (inner > 1) {
    for (size_t c = begin; c < end; c++) {
      double s = 0, q = 0;
      if (operation == 1) pivots[c] = x[c * inner];
      if (operation)
        for (size_t n = 0; n < outer; n++) {
          size_t at = (n * channels + c) * inner;
          sumRun(x + at, u ? u + at : 0, inner, pivots[c], &s, &q);
        }
      finish(c, s, q);
      const float *k = coefficients + c;
      for (size_t n = 0; n < outer; n++) mapRun((n * channels + c) * inner, inner, k[0], k[channels], k[2 * channels]);
    }
    return;
  }
  double *own = rowSums + t * 2 * channels;
  if (operation) {
    memset(own, 0, 16 * channels);
    sumRows(begin, end, u, own, own + channels);
    meet();
  }
  for (size_t c = channels * t / threads; c < channels * (t + 1) / threads; c++) {
    double s = 0, q = 0;
    for (int i = 0; i < threads; i++) s += rowSums[2 * i * channels + c], q += rowSums[(2 * i + 1) * channels + c];
    finish(c, s, q);
  }
  meet();
  for (size_t r = begin; r < end; r++) mapRow(r);
}

static void *loop(void *thread) {
  int t = (int)(size_t)thread;
  do {
    pthread_barrier_wait(&gate);
    // a copy, because the main thread may begin the next job before others leave this loop
    for (int i = 0, times = repeats; i < times; i++) call(t), meet();
  } while (t);
  return 0;
}

static float *load(const char *folder, const char *name, size_t length) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  float *data = malloc(length * 4);
  FILE *file = fopen(path, "rb");
  if (!file || fread(data, 4, length, file) != length) exit(1);
  fclose(file);
  return data;
}

static void save(const char *folder, const char *name, const float *data, const double *wide, size_t length) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "wb");
  if (!file) exit(1);
  for (size_t i = 0; wide && i < length; i++) {
    float value = wide[i];
    fwrite(&value, 4, 1, file);
  }
  if (data) fwrite(data, 4, length, file);
  fclose(file);
}

static double run(int wanted, int times) {
  operation = wanted;
  repeats = times;
  double start = now();
  loop(0);
  return (now() - start) / times;
}

int main(int count, char **arguments) {
  if (count < 7) return 1;
  const char *folder = arguments[1];
  outer = atol(arguments[2]), channels = atol(arguments[3]), inner = atol(arguments[4]);
  threads = atoi(arguments[5]), epsilon = atof(arguments[6]);
  size_t length = outer * channels * inner;
  x = load(folder, "x", length), dy = load(folder, "dy", length), vectors = load(folder, "vectors", 4 * channels);
  y = calloc(length, 4), dx = calloc(length, 4);
  double *all = calloc((4 + 2 * threads) * channels, 8);
  mean = all, invStd = all + channels, first = invStd + channels, second = first + channels, rowSums = second + channels;
  coefficients = calloc(4 * channels, 4), pivots = coefficients + 3 * channels;
  memcpy(pivots, x, inner == 1 ? 4 * channels : 0);
  pthread_barrier_init(&gate, 0, threads);
  for (int t = 1; t < threads; t++) {
    pthread_t thread;
    if (pthread_create(&thread, 0, loop, (void *)(size_t)t)) return 1;
  }
  run(1, 1); // backward needs its statistics
  char name[16];
  for (int times; scanf("%15s %d", name, &times) == 2;) {
    int wanted = name[0] == 'i' ? 0 : name[0] == 'f' ? 1 : 2;
    if (times > 1) run(wanted, 1);
    printf("%.9g\n", run(wanted, times > 0 ? times : 1));
    if (times == 0 && wanted < 2) save(folder, "y", y, 0, length);
    if (times == 0 && wanted == 2) {
      save(folder, "dx", dx, 0, length);
      save(folder, "dGamma", 0, second, channels);
      save(folder, "dBeta", 0, first, channels);
    }
    fflush(stdout);
  }
  return 0;
}
