#include "batchnorm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 2, ALIGNMENT = 64, PAGE = 65536 };

void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

uint8_t *read_file(const char *path, size_t *length) {
  FILE *file = fopen(path, "rb");
  if (!file) die("%s: cannot be opened", path);
  fseek(file, 0, SEEK_END);
  *length = (size_t)ftell(file);
  rewind(file);
  uint8_t *bytes = malloc(*length);
  if (!bytes || fread(bytes, 1, *length, file) != *length) die("%s: cannot be read", path);
  fclose(file);
  return bytes;
}

static void check(const char *doing, wasmtime_error_t *error, wasm_trap_t *trap) {
  if (!error && !trap) return;
  wasm_byte_vec_t message;
  if (error) wasmtime_error_message(error, &message);
  else wasm_trap_message(trap, &message);
  die("%s: %.*s", doing, (int)message.size, message.data);
}

static wasmtime_extern_t export(Kernels *k, const char *name) {
  wasmtime_extern_t item;
  if (!wasmtime_instance_export_get(k->context, &k->instance, name, strlen(name), &item))
    die("the module has no export %s", name);
  return item;
}

// Returns the result, or 0 where there is none.
static uint32_t call(Kernels *k, const char *name, size_t results, size_t count, const wasmtime_val_t *arguments) {
  wasmtime_func_t function = export(k, name).of.func;
  wasmtime_val_t result = {0};
  wasm_trap_t *trap = NULL;
  check(name, wasmtime_func_call(k->context, &function, arguments, count, &result, results, &trap), trap);
  return (uint32_t)result.of.i32;
}

void kernels_load(Kernels *k, const char *path) {
  wasm_config_t *config = wasm_config_new();
  wasmtime_config_wasm_simd_set(config, true);
  wasmtime_config_wasm_relaxed_simd_set(config, true);
  wasmtime_config_memory_may_move_set(config, false);
  k->engine = wasm_engine_new_with_config(config);
  k->store = wasmtime_store_new(k->engine, NULL, NULL);
  k->context = wasmtime_store_context(k->store);

  size_t length;
  uint8_t *bytes = read_file(path, &length);
  check(path, wasmtime_module_new(k->engine, bytes, length, &k->module), NULL);
  free(bytes);

  wasm_importtype_vec_t wanted;
  wasmtime_module_imports(k->module, &wanted);
  wasmtime_extern_t ours = {.kind = WASMTIME_EXTERN_MEMORY};
  if (wanted.size) { // env.memory: ours; a module that imports nothing brings its own
    const wasm_memorytype_t *type = wasm_externtype_as_memorytype_const(wasm_importtype_type(wanted.data[0]));
    if (!type) die("%s: imports something other than a memory", path);
    check("memory", wasmtime_memory_new(k->context, type, &ours.of.memory), NULL);
  }
  wasm_trap_t *trap = NULL;
  check(path, wasmtime_instance_new(k->context, k->module, &ours, wanted.size, &k->instance, &trap), trap);
  k->memory = wanted.size ? ours.of.memory : export(k, "memory").of.memory;
  wasm_importtype_vec_delete(&wanted);
  k->base = wasmtime_memory_data(k->context, &k->memory);
  k->end = ALIGNMENT; // address 0 means "none"
  uint32_t version = call(k, "version", 1, 0, NULL);
  if (version != VERSION) die("%s: expected version %d of the kernels, got %u", path, VERSION, version);
}

void kernels_free(Kernels *k) {
  wasmtime_module_delete(k->module);
  wasmtime_store_delete(k->store);
  wasm_engine_delete(k->engine);
}

void *kernels_zeros(Kernels *k, size_t bytes) {
  size_t begin = k->end;
  k->end = (begin + bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  size_t size = wasmtime_memory_data_size(k->context, &k->memory);
  if (k->end > size) {
    uint64_t before;
    check("memory", wasmtime_memory_grow(k->context, &k->memory, (k->end - size + PAGE - 1) / PAGE, &before), NULL);
  }
  return k->base + begin;
}

// Arguments of the kernels: an address in linear memory, a size, a number.

static wasmtime_val_t at(const Kernels *k, const void *tensor) {
  size_t address = tensor ? (size_t)((const uint8_t *)tensor - k->base) : 0;
  if (tensor && (address == 0 || address > k->end)) die("expected a tensor in linear memory, got one outside of it");
  return (wasmtime_val_t){.kind = WASMTIME_I32, .of.i32 = (int32_t)address};
}

static wasmtime_val_t u32(uint32_t value) {
  return (wasmtime_val_t){.kind = WASMTIME_I32, .of.i32 = (int32_t)value};
}

static wasmtime_val_t f64(double value) {
  return (wasmtime_val_t){.kind = WASMTIME_F64, .of.f64 = value};
}

#define LIST(...) sizeof((wasmtime_val_t[]){__VA_ARGS__}) / sizeof(wasmtime_val_t), (wasmtime_val_t[]){__VA_ARGS__}

void batchnorm_init(BatchNorm *b, Kernels *k, Geometry g) {
  size_t c = g.channels, n = (size_t)g.outer * c * g.inner;
  uint32_t workspace = call(k, "workspace", 1, LIST(u32(sizeof(float)), u32(g.outer), u32(g.channels), u32(g.inner)));
  *b = (BatchNorm){.kernels = k, .geometry = g, .epsilon = 1e-5, .momentum = 0.1};
  float **tensors[] = {&b->gamma, &b->beta, &b->y, &b->dx};
  for (int i = 0; i < 4; i++) *tensors[i] = kernels_zeros(k, (i < 2 ? c : n) * sizeof(float));
  double **vectors[] = {&b->running_mean, &b->running_variance, &b->mean,  &b->variance,
                        &b->inv_std,      &b->d_gamma,          &b->d_beta};
  for (int i = 0; i < 7; i++) *vectors[i] = kernels_zeros(k, c * sizeof(double));
  b->workspace = kernels_zeros(k, workspace);
  for (size_t i = 0; i < c; i++) b->gamma[i] = 1, b->running_variance[i] = 1;
}

void batchnorm_train(BatchNorm *b, const float *x) {
  Kernels *k = b->kernels;
  Geometry g = b->geometry;
  double count = (double)g.outer * g.inner;
  if (count < 2) die("expected more than 1 value per channel when training, got %g", count);
  call(k, "forward", 0,
       LIST(at(k, x), at(k, b->y), at(k, b->gamma), at(k, b->beta), at(k, b->mean), at(k, b->variance), at(k, b->inv_std),
            at(k, b->workspace), u32(g.outer), u32(g.channels), u32(g.inner), f64(b->epsilon)));
  call(k, "track", 0,
       LIST(at(k, b->running_mean), at(k, b->running_variance), at(k, b->mean), at(k, b->variance), f64(b->momentum),
            f64(count), u32(g.channels)));
  b->constant = false;
}

void batchnorm_infer(BatchNorm *b, const float *x) {
  Kernels *k = b->kernels;
  Geometry g = b->geometry;
  call(k, "inference", 0,
       LIST(at(k, x), at(k, b->y), at(k, b->gamma), at(k, b->beta), at(k, b->running_mean), at(k, b->running_variance),
            at(k, b->inv_std), at(k, b->workspace), u32(g.outer), u32(g.channels), u32(g.inner), f64(b->epsilon)));
  b->constant = true;
}

void batchnorm_backward(BatchNorm *b, const float *x, const float *dy) {
  Kernels *k = b->kernels;
  Geometry g = b->geometry;
  const double *mean = b->constant ? b->running_mean : b->mean;
  call(k, "backward", 0,
       LIST(at(k, x), at(k, dy), at(k, b->dx), at(k, b->gamma), at(k, mean), at(k, b->inv_std), at(k, b->d_gamma),
            at(k, b->d_beta), at(k, b->workspace), u32(g.outer), u32(g.channels), u32(g.inner), u32(b->constant)));
}

void batchnorm_step(BatchNorm *b, double rate) {
  for (uint32_t c = 0; c < b->geometry.channels; c++) {
    b->gamma[c] -= (float)(rate * b->d_gamma[c]);
    b->beta[c] -= (float)(rate * b->d_beta[c]);
  }
}
