/* The library for C99, and for whatever calls C: opaque handles, tensors by DLPack, status codes.
 *
 * A function that can fail returns a status; where that is not FOKKER_OK no handle was made, outputs may hold anything, a
 * trainer keeps the iterations that it did, and fokker_last_message() of the same thread has one sentence that says what was
 * given and what is allowed. No exception leaves a function. A handle is made by a function that writes it to its last
 * argument, used from one thread at a time, as are all handles of one context together, and given back to its destroy
 * function, which takes NULL too. Other objects keep what they need of the handles they were made of, so those may be
 * destroyed in any order.
 *
 * Tensors are DLTensors of the caller, in and out: the shape is given beside each argument as [N, d], and a vector [N] may
 * be a matrix [N, 1] too. They are dense and row-major (strides NULL or those of such a tensor; of an axis of one entry any),
 * of the type that is named, on the context's device, and aligned to their type; byte_offset is added to data. A tensor
 * without entries needs no data, and counts as NULL where that may be given. NULL in place of a tensor stands for "not given"
 * or "not wanted" where that is said. Calls on CUDA are queued on the context's stream and return; a tensor belongs to the
 * call until fokker_context_synchronize().
 *
 * Times are in the units of the SDE's horizon T, x in those of the data, densities in nats. The C++ headers beside this one
 * say what is computed and where a formula is from. */
#ifndef FOKKER_FOKKER_H
#define FOKKER_FOKKER_H

#include <dlpack/dlpack.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define FOKKER_C_API __attribute__((visibility("default")))
#else
#define FOKKER_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fokker_status {
  FOKKER_OK = 0,
  FOKKER_REFUSED = 1, /* what was given does not fit, or a file or device failed: the message says what and why */
  FOKKER_OUT_OF_MEMORY = 2,
  FOKKER_INTERNAL = 3 /* what should not happen: the message is that of the exception */
} fokker_status;

typedef struct fokker_context fokker_context;
typedef struct fokker_model fokker_model;
typedef struct fokker_fields fokker_fields;
typedef struct fokker_sampler fokker_sampler;
typedef struct fokker_data fokker_data;
typedef struct fokker_trainer fokker_trainer;

/* "MAJOR.MINOR.PATCH" of the library that was linked. */
FOKKER_C_API const char* fokker_version(void);
/* The sentence of this thread's last call that failed; empty where none did. Valid until the thread's next call. */
FOKKER_C_API const char* fokker_last_message(void);

/* A word of an option and its value, as the command line and model files have them. */
typedef struct fokker_option {
  const char *key, *value;
} fokker_option;

/* ---- where work runs ---------------------------------------------------------------------------------------------- */

/* backend: "auto", "cpu" or "cuda"; threads: of the CPU, 0 for as many as may run; gpu: the number of the CUDA device, -1 for
 * the one that is current; stream: the caller's cudaStream_t, NULL for the default one; precision of CUDA: "split", "fp32" or
 * "half". NULL for backend or precision is its default, auto and split. */
FOKKER_C_API fokker_status fokker_context_create(const char* backend, int threads, int gpu, void* stream,
                                                 const char* precision, fokker_context** context);
/* The device on which its tensors have to be: kDLCPU, or kDLCUDA with its number. */
FOKKER_C_API fokker_status fokker_context_device(const fokker_context* context, DLDevice* device);
/* Waits for everything queued through the context. */
FOKKER_C_API fokker_status fokker_context_synchronize(const fokker_context* context);
FOKKER_C_API void fokker_context_destroy(fokker_context* context);

/* ---- models --------------------------------------------------------------------------------------------------------- */

/* A model file (.safetensors or .json); what it does not say, or what it says otherwise, is in `count` options with the keys
 * of its metadata: "sde", "activation", "output", "inputs", … NULL where count is 0. */
FOKKER_C_API fokker_status fokker_model_load(const char* path, const fokker_option* options, size_t count,
                                             fokker_model** model);
/* A network that is not trained, with the initial weights of a seed. Options with defaults: "dimension" 2, "hidden"
 * "80,80,80", "activation" "softplus", "beta" 100 (or another activation's parameter), "output" "potential", "inputs" "t,x",
 * "data_deviation" 1, "sde" "ou", "sde_parameters" its defaults. */
FOKKER_C_API fokker_status fokker_model_initialise(const fokker_option* options, size_t count, uint64_t seed,
                                                   fokker_model** model);
FOKKER_C_API fokker_status fokker_model_save(const fokker_model* model, const char* path);
/* d, how many numbers its condition has (0 for none), and whether it is a potential (1) or a vector score net (0); each may
 * be NULL. */
FOKKER_C_API fokker_status fokker_model_shape(const fokker_model* model, int64_t* dimension, int64_t* condition,
                                              int* potential);
/* One line that says what it is, with a 0 at its end: at most `size` bytes of it into `text`, and how many it needs into
 * `needed`; each of the two may be NULL. */
FOKKER_C_API fokker_status fokker_model_describe(const fokker_model* model, char* text, size_t size, size_t* needed);
FOKKER_C_API void fokker_model_destroy(fokker_model* model);

/* ---- fields at points ----------------------------------------------------------------------------------------------- */

/* How a divergence is found: exactly where probes is 0, else by Hutchinson's mean over so many probes, 1 to 65536, whose law
 * is "rademacher" (NULL too) or "gaussian". Probe j of point i is a function of (seed, first_index + i, j). NULL in place of
 * a pointer to it: exactly. */
typedef struct fokker_divergence {
  int probes;
  const char* law;
  uint64_t seed, first_index;
} fokker_divergence;

/* What is wanted, each [N] but for score [N, d] and hessian [N, d d]; NULL: not wanted. value, dt and residual are a
 * potential's. */
typedef struct fokker_outputs {
  DLTensor *value, *dt, *score, *divergence, *hessian, *residual;
} fokker_outputs;

/* bits: 32 or 64, of the floating point numbers that it takes and gives. */
FOKKER_C_API fokker_status fokker_fields_create(const fokker_context* context, const fokker_model* model, int bits,
                                                fokker_fields** fields);
/* At t [N] (or [1], one time for all), x [N, d] and, of a model that takes one, condition [N, c]; else NULL. */
FOKKER_C_API fokker_status fokker_fields_evaluate(const fokker_fields* fields, const DLTensor* t, const DLTensor* x,
                                                  const DLTensor* condition, const fokker_outputs* outputs,
                                                  const fokker_divergence* divergence);
/* product [N, d] = (ds/dx) direction, direction [N, d]. */
FOKKER_C_API fokker_status fokker_fields_hessian_vector(const fokker_fields* fields, const DLTensor* t,
                                                        const DLTensor* x, const DLTensor* condition,
                                                        const DLTensor* direction, DLTensor* product);
FOKKER_C_API void fokker_fields_destroy(fokker_fields* fields);

/* ---- samples -------------------------------------------------------------------------------------------------------- */

/* fokker_sample_options_init() sets the defaults: euler-maruyama, seed 0, first_index 0, the scheme's own eta (a number that
 * is not one), temperature 1, no churn, no Langevin step, no noise in the last step. */
typedef struct fokker_sample_options {
  const char* scheme; /* NULL: euler-maruyama */
  uint64_t seed, first_index;
  double eta, temperature;
  double churn, churn_from, churn_to, churn_noise;
  double langevin;
  int noise_in_last_step;
  DLTensor* log_density;        /* float32 [N], or NULL: of the flow's law at the samples, by euler, heun and rk4 */
  fokker_divergence divergence; /* how that is found */
} fokker_sample_options;
FOKKER_C_API void fokker_sample_options_init(fokker_sample_options* options);

/* Along a grid of times as the command line has it: "paper", "uniform:100", "geometric:150:1e-3", "edm:18", … */
FOKKER_C_API fokker_status fokker_sampler_create(const fokker_context* context, const fokker_model* model,
                                                 const char* grid, fokker_sampler** sampler);
/* samples float32 [N, d], from draws of the prior; condition float32 [N, c], or NULL. options NULL: the defaults. Sample i is
 * a function of (seed, first_index + i). */
FOKKER_C_API fokker_status fokker_sampler_sample(const fokker_sampler* sampler, const fokker_sample_options* options,
                                                 const DLTensor* condition, DLTensor* samples);
/* The same from the states that are in samples, at the grid's first time. */
FOKKER_C_API fokker_status fokker_sampler_integrate(const fokker_sampler* sampler, const fokker_sample_options* options,
                                                    const DLTensor* condition, DLTensor* samples);
/* log_density float32 [N] of the probability flow's law at x float32 [N, d] and the grid's last time; scheme "euler", "heun"
 * (NULL too) or "rk4". */
FOKKER_C_API fokker_status fokker_sampler_log_density(const fokker_sampler* sampler, const DLTensor* x,
                                                      const DLTensor* condition, const char* scheme,
                                                      const fokker_divergence* divergence, DLTensor* log_density);
FOKKER_C_API void fokker_sampler_destroy(fokker_sampler* sampler);

/* ---- data and training ---------------------------------------------------------------------------------------------- */

/* "blob", "circles2", "checker", a mixture's .json, or an array's .npy, .npz or .csv. */
FOKKER_C_API fokker_status fokker_data_named(const char* name, fokker_data** data);
/* The samples float32 [N, d] of a tensor, which are copied. */
FOKKER_C_API fokker_status fokker_data_samples(const fokker_context* context, const DLTensor* samples,
                                               fokker_data** data);
/* out float32 [N, d]: draws first_index … of (seed, step). */
FOKKER_C_API fokker_status fokker_data_draw(const fokker_context* context, const fokker_data* data, uint64_t seed,
                                            uint64_t first_index, uint64_t step, DLTensor* out);
FOKKER_C_API void fokker_data_destroy(fokker_data* data);

/* fokker_train_options_init() sets the defaults of the library, which are those of `fokker train` for a score under ou; other
 * outputs take "uniform" times there, and "log-normal" ones under edm and flow. Names are those of the command line; NULL: the
 * default. */
typedef struct fokker_train_options {
  int64_t iterations, denoising_points, collocation_points;
  double residual_weight, box, peak_rate, clip_norm, average_decay, average_fraction, condition_drop;
  double log_sigma_mean, log_sigma_deviation;
  uint64_t seed;
  int residual_probes; /* of each of two estimates whose product is the residual's square; 0: its exact square */
  const char *probe_law, *time_law, *loss_weight, *schedule, *average;
} fokker_train_options;
FOKKER_C_API void fokker_train_options_init(fokker_train_options* options);

/* What an iteration found, before its update. */
typedef struct fokker_train_record {
  int64_t iteration;
  double denoising, residual, total, gradient_norm, rate;
} fokker_train_record;
/* Called on the calling thread with the records of iterations that ended; training goes on while it returns a number that is
 * not 0. It calls no function of this trainer. */
typedef int (*fokker_train_news)(const fokker_train_record* records, size_t count, void* user);

/* model: where it begins. options NULL: the defaults. */
FOKKER_C_API fokker_status fokker_trainer_create(const fokker_context* context, const fokker_model* model,
                                                 const fokker_data* data, const fokker_train_options* options,
                                                 fokker_trainer** trainer);
/* Goes on from a file that fokker_trainer_save_state() wrote, on the same data. */
FOKKER_C_API fokker_status fokker_trainer_resume(const fokker_context* context, const char* path,
                                                 const fokker_data* data, fokker_trainer** trainer);
/* Up to `count` more iterations, never beyond those of the options; news may be NULL. A loss that is not finite ends it with
 * FOKKER_REFUSED, and the parameters stay those before it. */
FOKKER_C_API fokker_status fokker_trainer_run(fokker_trainer* trainer, int64_t count, fokker_train_news news,
                                              void* user);
/* How many iterations are done, into `iteration`. */
FOKKER_C_API fokker_status fokker_trainer_iteration(const fokker_trainer* trainer, int64_t* iteration);
FOKKER_C_API fokker_status fokker_trainer_model(const fokker_trainer* trainer, fokker_model** model);
FOKKER_C_API fokker_status fokker_trainer_save_state(const fokker_trainer* trainer, const char* path);
FOKKER_C_API void fokker_trainer_destroy(fokker_trainer* trainer);

/* ---- distances ------------------------------------------------------------------------------------------------------ */

/* W2^2 of two planar sets of samples float32 [N, 2] and [M, 2], of their histograms on nodes × nodes points of the box
 * [box[0], box[1]] × [box[2], box[3]], of NULL [-3.5, 3.5]^2, exact there; dual, or NULL, is its certificate, a lower bound.
 * Waits for the result. */
FOKKER_C_API fokker_status fokker_w2_squared(const fokker_context* context, const DLTensor* a, const DLTensor* b,
                                             int64_t nodes, const double* box, double* w2_squared, double* dual);
/* The mean over projections, 1 to 10^6, of the W2^2 of samples float32 [N, d] and [M, d] on lines. Waits for the result. */
FOKKER_C_API fokker_status fokker_sliced_w2_squared(const fokker_context* context, const DLTensor* a, const DLTensor* b,
                                                    int projections, uint64_t seed, double* w2_squared);

#ifdef __cplusplus
}
#endif

#endif /* FOKKER_FOKKER_H */
