// A batch norm layer on WebAssembly kernels, run by wasmtime.
//
// The module owns nothing and allocates nothing, so batchnorm.c lays out the memory:
//
//     0        64                                                              grows
//     | unused | gamma | beta | ... | x | y | dx | ... each at a 64-byte boundary |
//
// A tensor is a plain pointer into it. Linear memory grows in place, so that the pointers stay valid.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wasmtime.h>

// One instance of the module, with its memory.
typedef struct {
  wasm_engine_t *engine;
  wasmtime_store_t *store;
  wasmtime_context_t *context;
  wasmtime_module_t *module;
  wasmtime_instance_t instance;
  wasmtime_memory_t memory;
  uint8_t *base;
  size_t end;
} Kernels;

void kernels_load(Kernels *kernels, const char *path);
void kernels_free(Kernels *kernels);

// Zeros in linear memory; they live as long as the kernels.
void *kernels_zeros(Kernels *kernels, size_t bytes);

// (N, C, H·W) for channels first, (N·H·W, C, 1) for channels last.
typedef struct {
  uint32_t outer, channels, inner;
} Geometry;

// Batch normalization of one geometry, with PyTorch's conventions.
typedef struct {
  Kernels *kernels;
  Geometry geometry;
  double epsilon, momentum;
  float *gamma, *beta;
  double *running_mean, *running_variance;
  double *mean, *variance; // of the last batch of batchnorm_train
  double *inv_std;         // of the last forward, for batchnorm_backward
  bool constant;           // the last forward took the running statistics
  double *d_gamma, *d_beta;
  float *y, *dx;
  void *workspace;
} BatchNorm;

void batchnorm_init(BatchNorm *layer, Kernels *kernels, Geometry geometry);

// Fills y with the batch's statistics, and moves the running ones.
void batchnorm_train(BatchNorm *layer, const float *x);

// Fills y with the running statistics.
void batchnorm_infer(BatchNorm *layer, const float *x);

// Fills dx, d_gamma and d_beta from the x of the last forward and the gradient of its y. After batchnorm_infer, statistics are
// constants.
void batchnorm_backward(BatchNorm *layer, const float *x, const float *dy);

// Stochastic gradient descent.
void batchnorm_step(BatchNorm *layer, double rate);

// Reads a whole file; the caller frees it.
uint8_t *read_file(const char *path, size_t *length);

// Prints a message to stderr and exits with 1.
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
