/* What the crate gnn asks of a GPU, behind a small C interface: opened at run time by gnn/device, so that the
 * program that computes on processors only has nothing to do with CUDA.
 *
 * Each kernel computes one number (or one small tile) for each index, reads what others do not write, and uses neither
 * shared memory nor atomics: results do not depend on the order. The same text is plain C if GNN_EMULATE is defined:
 * tests compile it for the processor and compare it with the Rust kernels (gnn/tests/device.rs).
 *
 * gnn/cuda/build compiles it with nvcc from PyPI.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef GNN_EMULATE
#ifndef GNN_EMULATE_LARGEST
#define GNN_EMULATE_LARGEST UINT64_MAX
#endif
#define KERNEL static void
#define EACH(i, n) for (uint64_t i = 0; i < (n); i++)
#define LAUNCH(kernel, n, ...) (kernel((n), __VA_ARGS__), 0)
#define INSIDE static inline
#define EXPORT __attribute__((visibility("default")))
#else
#include <cuda_runtime.h>
#define KERNEL static __global__ void
#define EACH(i, n) \
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < (n); i += (uint64_t)gridDim.x * blockDim.x)
#define LAUNCH(kernel, n, ...) (kernel<<<blocks(n), 256>>>((n), __VA_ARGS__), failed(cudaGetLastError(), #kernel))
#define INSIDE static __device__ __forceinline__
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

/* Raised with each change of a function below. */
#define ABI 1
/* Rows of a tile of the product: a weight that was read is used so often. */
#define TILE 8

enum { MEAN = 0, SUM = 1, MAX = 2, SYMMETRIC = 3 };
enum { NONE = 0, RELU = 1, LEAKY_RELU = 2, ELU = 3, GELU = 4, SILU = 5, SIGMOID = 6, TANH = 7 };

/* ------------------------------------------------------------------ errors and memory */

#ifdef __cplusplus
#define _Thread_local thread_local
#endif
static _Thread_local char message[256];

#ifndef GNN_EMULATE
static int failed(cudaError_t code, const char *what) {
    if (code == cudaSuccess) return 0;
    snprintf(message, sizeof message, "%s: %s", what, cudaGetErrorString(code));
    return 1;
}

static unsigned blocks(uint64_t n) {
    uint64_t wanted = (n + 255) / 256;
    return wanted == 0 ? 1 : wanted > 1u << 20 ? 1u << 20 : (unsigned)wanted;
}
#endif

EXPORT int gnn_abi(void) { return ABI; }

EXPORT const char *gnn_error(void) { return message; }

/* To be called by each thread before anything else; device 0. */
EXPORT int gnn_enter(void) {
#ifdef GNN_EMULATE
    return 0;
#else
    return failed(cudaSetDevice(0), "no device can be used");
#endif
}

EXPORT int gnn_describe(char *name, int length, uint64_t *total, uint64_t *unused) {
#ifdef GNN_EMULATE
    snprintf(name, (size_t)length, "emulated by the processor");
    *total = *unused = (uint64_t)1 << 33;
    return 0;
#else
    struct cudaDeviceProp properties;
    size_t all = 0, left = 0;
    if (failed(cudaGetDeviceProperties(&properties, 0), "the device does not describe itself")) return 1;
    if (failed(cudaMemGetInfo(&left, &all), "the device does not tell its memory")) return 1;
    snprintf(name, (size_t)length, "%s", properties.name);
    *total = all;
    *unused = left;
    return 0;
#endif
}

EXPORT int gnn_allocate(uint64_t bytes, void **out) {
#ifdef GNN_EMULATE
    *out = bytes > GNN_EMULATE_LARGEST ? NULL : malloc(bytes ? bytes : 1);
    if (*out) return 0;
    snprintf(message, sizeof message, "out of memory");
    return 1;
#else
    return failed(cudaMalloc(out, bytes ? bytes : 1), "memory");
#endif
}

EXPORT void gnn_free(void *memory) {
#ifdef GNN_EMULATE
    free(memory);
#else
    cudaFree(memory);
#endif
}

EXPORT int gnn_put(void *to, const void *from, uint64_t bytes) {
#ifdef GNN_EMULATE
    memcpy(to, from, bytes);
    return 0;
#else
    return failed(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copy to the device");
#endif
}

EXPORT int gnn_get(void *to, const void *from, uint64_t bytes) {
#ifdef GNN_EMULATE
    memcpy(to, from, bytes);
    return 0;
#else
    return failed(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "copy from the device");
#endif
}

/* ------------------------------------------------------------------ neighbours made one row */

KERNEL gather(uint64_t n, int how, const uint32_t *offsets, const uint32_t *sources, const float *weights,
              const float *roots, const float *input, uint64_t width, float *out) {
    EACH(i, n) {
        uint64_t row = i / width, column = i % width;
        uint32_t from = offsets[row], to = offsets[row + 1];
        float sum = how == MAX && to > from ? -INFINITY : 0.0f, own = 1.0f;
        for (uint32_t edge = from; edge < to; edge++) {
            uint32_t source = sources[edge];
            float value = input[source * width + column];
            if (how == MAX) {
                sum = value > sum ? value : sum;
            } else if (how != SYMMETRIC) {
                sum += value;
            } else if (source == row) {
                own = weights ? weights[edge] : 1.0f;
            } else {
                sum += (weights ? weights[edge] : 1.0f) * roots[source] * roots[row] * value;
            }
        }
        if (how == MEAN && to > from) sum /= (float)(to - from);
        if (how == SYMMETRIC) sum += own * roots[row] * roots[row] * input[row * width + column];
        out[i] = sum;
    }
}

EXPORT int gnn_gather(int how, const uint32_t *offsets, const uint32_t *sources, const float *weights,
                      const float *roots, const float *input, uint64_t rows, uint64_t width, float *out) {
    return LAUNCH(gather, rows * width, how, offsets, sources, weights, roots, input, width, out);
}

/* ------------------------------------------------------------------ rows times weights */

/* `weight` is inputs x outputs. Starts from the bias, or from what `out` holds if `held`. */
KERNEL dense(uint64_t n, const float *input, const float *weight, const float *bias, int held, uint64_t rows,
             uint64_t inputs, uint64_t outputs, float *out) {
    EACH(i, n) {
        uint64_t first = i / outputs * TILE, column = i % outputs;
        uint64_t count = rows - first < TILE ? rows - first : TILE;
        float sums[TILE];
        for (int row = 0; row < TILE; row++) {
            sums[row] = bias ? bias[column] : 0.0f;
            if (held && (uint64_t)row < count) sums[row] = out[(first + row) * outputs + column];
        }
        for (uint64_t k = 0; k < inputs; k++) {
            float factor = weight[k * outputs + column];
            for (int row = 0; row < TILE; row++) {
                /* Rows beyond the end read the last one; they are not written. */
                uint64_t from = (uint64_t)row < count ? first + row : first + count - 1;
                sums[row] += input[from * inputs + k] * factor;
            }
        }
        for (uint64_t row = 0; row < count; row++) out[(first + row) * outputs + column] = sums[row];
    }
}

EXPORT int gnn_dense(const float *input, const float *weight, const float *bias, int held, uint64_t rows,
                     uint64_t inputs, uint64_t outputs, float *out) {
    uint64_t tiles = (rows + TILE - 1) / TILE;
    return LAUNCH(dense, tiles * outputs, input, weight, bias, held, rows, inputs, outputs, out);
}

/* ------------------------------------------------------------------ what comes after */

INSIDE float activated(int kind, float x) {
    switch (kind) {
        case RELU: return x > 0.0f ? x : 0.0f;
        case LEAKY_RELU: return x > 0.0f ? x : 0.01f * x;
        case ELU: return x > 0.0f ? x : expm1f(x);
        case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678118f));
        case SILU: return x / (1.0f + expf(-x));
        case SIGMOID: return 1.0f / (1.0f + expf(-x));
        case TANH: return tanhf(x);
        default: return x;
    }
}

KERNEL activate(uint64_t n, int kind, float *out) {
    EACH(i, n) out[i] = activated(kind, out[i]);
}

EXPORT int gnn_activate(int kind, uint64_t count, float *out) { return LAUNCH(activate, count, kind, out); }

KERNEL affine(uint64_t n, const float *scale, const float *shift, uint64_t width, float *out) {
    EACH(i, n) out[i] = out[i] * scale[i % width] + shift[i % width];
}

EXPORT int gnn_affine(const float *scale, const float *shift, uint64_t rows, uint64_t width, float *out) {
    return LAUNCH(affine, rows * width, scale, shift, width, out);
}

KERNEL unit_rows(uint64_t n, uint64_t width, float *out) {
    EACH(i, n) {
        float sum = 0.0f;
        for (uint64_t k = 0; k < width; k++) sum += out[i * width + k] * out[i * width + k];
        float length = fmaxf(sqrtf(sum), 1e-12f);
        for (uint64_t k = 0; k < width; k++) out[i * width + k] /= length;
    }
}

EXPORT int gnn_unit_rows(uint64_t rows, uint64_t width, float *out) { return LAUNCH(unit_rows, rows, width, out); }

KERNEL norm_rows(uint64_t n, const float *weight, const float *bias, float epsilon, uint64_t width, float *out) {
    EACH(i, n) {
        float mean = 0.0f, variance = 0.0f;
        for (uint64_t k = 0; k < width; k++) mean += out[i * width + k];
        mean /= (float)width;
        for (uint64_t k = 0; k < width; k++) variance += (out[i * width + k] - mean) * (out[i * width + k] - mean);
        float factor = 1.0f / sqrtf(variance / (float)width + epsilon);
        for (uint64_t k = 0; k < width; k++)
            out[i * width + k] = (out[i * width + k] - mean) * factor * weight[k] + bias[k];
    }
}

EXPORT int gnn_norm_rows(const float *weight, const float *bias, float epsilon, uint64_t rows, uint64_t width,
                         float *out) {
    return LAUNCH(norm_rows, rows, weight, bias, epsilon, width, out);
}

/* Adds, or takes the greater. */
KERNEL merge(uint64_t n, int greatest, const float *from, float *out) {
    EACH(i, n) out[i] = !greatest ? out[i] + from[i] : from[i] > out[i] ? from[i] : out[i];
}

EXPORT int gnn_merge(int greatest, const float *from, uint64_t count, float *out) {
    return LAUNCH(merge, count, greatest, from, out);
}

/* ------------------------------------------------------------------ attention */

/* For each row and head: the product of the head's channels with a vector. */
KERNEL head_scores(uint64_t n, const float *values, const float *vector, uint64_t heads, uint64_t channels, float *out) {
    EACH(i, n) {
        const float *row = values + i * channels, *factors = vector + i % heads * channels;
        float sum = 0.0f;
        for (uint64_t k = 0; k < channels; k++) sum += row[k] * factors[k];
        out[i] = sum;
    }
}

EXPORT int gnn_head_scores(const float *values, const float *vector, uint64_t rows, uint64_t heads, uint64_t channels,
                           float *out) {
    return LAUNCH(head_scores, rows * heads, values, vector, heads, channels, out);
}

/* The mean of the features of a node's edges that are no loops. */
KERNEL mean_edges(uint64_t n, const uint32_t *offsets, const uint32_t *sources, const float *edges, uint64_t width,
                  float *out) {
    EACH(i, n) {
        uint64_t row = i / width, column = i % width;
        float sum = 0.0f, count = 0.0f;
        for (uint32_t edge = offsets[row]; edge < offsets[row + 1]; edge++) {
            if (sources[edge] == row) continue;
            sum += edges[edge * width + column];
            count += 1.0f;
        }
        out[i] = sum / fmaxf(count, 1.0f);
    }
}

EXPORT int gnn_mean_edges(const uint32_t *offsets, const uint32_t *sources, const float *edges, uint64_t rows,
                          uint64_t width, float *out) {
    return LAUNCH(mean_edges, rows * width, offsets, sources, edges, width, out);
}

/* How a layer scores; passed by value. `vector` and `edge_weight` are those of the kind. */
struct attention {
    const uint32_t *offsets, *sources;
    /* GAT: scores of sources and targets, rows x heads. GATv2: their rows, rows x heads * channels. */
    const float *source, *target;
    /* GATv2: heads * channels; null for GAT. */
    const float *vector;
    /* Features of edges and of the added loops; null without. GAT: weight is heads x width, GATv2: heads * channels x width. */
    const float *edges, *loop_edges, *edge_weight;
    uint64_t edge_width, heads, channels;
    float slope;
    int loops;
};

INSIDE float dot(const float *a, const float *b, uint64_t count) {
    float sum = 0.0f;
    for (uint64_t k = 0; k < count; k++) sum += a[k] * b[k];
    return sum;
}

INSIDE float leaky(float x, float slope) { return x > 0.0f ? x : slope * x; }

INSIDE float scored(const struct attention *a, uint64_t source, uint64_t target, uint64_t head, const float *edge) {
    if (!a->vector) {
        float sum = a->source[source * a->heads + head] + a->target[target * a->heads + head];
        if (edge) sum += dot(a->edge_weight + head * a->edge_width, edge, a->edge_width);
        return leaky(sum, a->slope);
    }
    uint64_t width = a->heads * a->channels;
    float score = 0.0f;
    for (uint64_t k = head * a->channels; k < (head + 1) * a->channels; k++) {
        float sum = a->source[source * width + k] + a->target[target * width + k];
        if (edge) sum += dot(a->edge_weight + k * a->edge_width, edge, a->edge_width);
        score += leaky(sum, a->slope) * a->vector[k];
    }
    return score;
}

/* `out` has a share for each edge and head, then one for each node's added loop and head. */
KERNEL shares(uint64_t n, struct attention a, uint64_t edge_count, float *out) {
    EACH(i, n) {
        uint64_t row = i / a.heads, head = i % a.heads;
        uint32_t from = a.offsets[row], to = a.offsets[row + 1];
        float most = -INFINITY, sum = 1e-16f;
        float *loop = out + (edge_count + row) * a.heads + head;
        for (uint32_t edge = from; edge < to; edge++) {
            const float *features = a.edges ? a.edges + (uint64_t)edge * a.edge_width : NULL;
            if (a.loops && a.sources[edge] == row) continue;
            float score = scored(&a, a.sources[edge], row, head, features);
            out[edge * a.heads + head] = score;
            most = score > most ? score : most;
        }
        if (a.loops) {
            *loop = scored(&a, row, row, head, a.edges ? a.loop_edges + row * a.edge_width : NULL);
            most = *loop > most ? *loop : most;
        }
        for (uint32_t edge = from; edge < to; edge++) {
            float *share = out + edge * a.heads + head;
            *share = a.loops && a.sources[edge] == row ? 0.0f : expf(*share - most);
            sum += *share;
        }
        *loop = a.loops ? expf(*loop - most) : 0.0f;
        sum += *loop;
        for (uint32_t edge = from; edge < to; edge++) out[edge * a.heads + head] /= sum;
        *loop /= sum;
    }
}

EXPORT int gnn_shares(const struct attention *a, uint64_t rows, uint64_t edge_count, float *out) {
    return LAUNCH(shares, rows * a->heads, *a, edge_count, out);
}

/* The neighbours' values by their shares; heads side by side, or their mean. */
KERNEL attend(uint64_t n, const uint32_t *offsets, const uint32_t *sources, const float *share, const float *values,
              const float *bias, uint64_t edge_count, uint64_t heads, uint64_t channels, int concat, float *out) {
    EACH(i, n) {
        uint64_t width = concat ? heads * channels : channels, row = i / width, column = i % width;
        uint64_t first = concat ? column / channels : 0, last = concat ? first + 1 : heads;
        float sum = 0.0f;
        for (uint64_t head = first; head < last; head++) {
            uint64_t at = head * channels + column % channels;
            for (uint32_t edge = offsets[row]; edge < offsets[row + 1]; edge++)
                sum += share[edge * heads + head] * values[sources[edge] * heads * channels + at];
            sum += share[(edge_count + row) * heads + head] * values[row * heads * channels + at];
        }
        out[i] = bias[column] + (concat ? sum : sum / (float)heads);
    }
}

EXPORT int gnn_attend(const uint32_t *offsets, const uint32_t *sources, const float *share, const float *values,
                      const float *bias, uint64_t rows, uint64_t edge_count, uint64_t heads, uint64_t channels,
                      int concat, float *out) {
    uint64_t width = concat ? heads * channels : channels;
    return LAUNCH(attend, rows * width, offsets, sources, share, values, bias, edge_count, heads, channels, concat, out);
}
