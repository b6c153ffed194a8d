/* The C API as a program in C99 uses it, and what it says of what does not fit. */
#include <fokker/fokker.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POINTS 99

static int failures = 0;

static void expect(int holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "not so: %s (last message: %s)\n", what, fokker_last_message());
  ++failures;
}

static void works(fokker_status status, const char* what) { expect(status == FOKKER_OK, what); }

/* A call is refused with a sentence that has these words. */
static void refused(fokker_status status, const char* words) {
  expect(status == FOKKER_REFUSED && strstr(fokker_last_message(), words) != NULL, words);
}

static DLTensor tensor(void* data, int64_t* shape, int ndim, uint8_t bits) {
  DLTensor t;
  t.data = data;
  t.device.device_type = kDLCPU;
  t.device.device_id = 0;
  t.ndim = ndim;
  t.dtype.code = kDLFloat;
  t.dtype.bits = bits;
  t.dtype.lanes = 1;
  t.shape = shape;
  t.strides = NULL;
  t.byte_offset = 0;
  return t;
}

static int news(const fokker_train_record* records, size_t count, void* user) {
  size_t* seen = (size_t*)user;
  size_t k;
  for (k = 0; k < count; ++k) expect(records[k].iteration == (int64_t)(*seen + k), "records come in their order");
  *seen += count;
  return 1;
}

int main(void) {
  static float x[2 * POINTS], density[POINTS], more[2 * POINTS];
  static double point[2] = {0.5, -0.25}, t[1] = {0.3}, score[2], value[1], hessian[4];
  int64_t sample_shape[2] = {POINTS, 2}, density_shape[1] = {POINTS}, one_shape[1] = {1}, point_shape[2] = {1, 2},
          hessian_shape[2] = {1, 4}, strides[2] = {1, POINTS}, dense[2] = {2, 1}, no_shape[2] = {0, 2};
  DLTensor samples = tensor(x, sample_shape, 2, 32), log_density = tensor(density, density_shape, 1, 32),
           others = tensor(more, sample_shape, 2, 32), time = tensor(t, one_shape, 1, 64),
           at = tensor(point, point_shape, 2, 64), scores = tensor(score, point_shape, 2, 64),
           values = tensor(value, one_shape, 1, 64), hessians = tensor(hessian, hessian_shape, 2, 64), wrong;
  const fokker_option silu[3] = {{"hidden", "16,16"}, {"activation", "silu"}, {"sde", "vp-linear"}};
  const fokker_option unknown[1] = {{"widths", "16"}};
  fokker_context* context = NULL;
  fokker_model *model = NULL, *trained = NULL;
  fokker_fields* fields = NULL;
  fokker_sampler* sampler = NULL;
  fokker_data* data = NULL;
  fokker_trainer *trainer = NULL, *probed = NULL;
  fokker_sample_options how;
  fokker_train_options train;
  fokker_outputs outputs;
  DLDevice device = {kDLCUDA, 3};
  int64_t dimension = 0, condition = -1, iteration = 0;
  size_t needed = 0, seen = 0;
  double distance = -1, dual = -1, box[4] = {-4, 4, -3.5, 3.5};
  char line[200];
  int k, potential = 0;

  printf("fokker %s\n", fokker_version());
  works(fokker_context_create("cpu", 2, -1, NULL, NULL, &context), "a context");
  works(fokker_context_device(context, &device), "its device");
  expect(device.device_type == kDLCPU && device.device_id == 0, "the CPU");
  refused(fokker_context_create("tpu", 0, -1, NULL, NULL, &context), "tpu");
  refused(fokker_context_create("cpu", 0, -1, NULL, NULL, NULL), "context is NULL");

  /* Training from an initial network. */
  works(fokker_model_initialise(silu, 3, 7, &model), "a network");
  refused(fokker_model_initialise(unknown, 1, 7, &trained), "widths is not known");
  refused(fokker_model_initialise(NULL, 1, 7, &trained), "options is NULL");
  refused(fokker_model_load("no-such-file.safetensors", NULL, 0, &trained), "no-such-file");
  refused(fokker_model_load(NULL, NULL, 0, &trained), "path is NULL");
  works(fokker_model_shape(model, &dimension, &condition, &potential), "its shape");
  expect(dimension == 2 && condition == 0 && potential == 1, "a planar potential");
  works(fokker_model_describe(model, line, sizeof line, &needed), "its line");
  expect(needed == strlen(line) + 1 && strstr(line, "silu") != NULL, "its activation is in it");
  works(fokker_model_describe(model, line, 5, NULL), "a part of it");
  expect(strlen(line) == 4, "as much as there is place for");
  works(fokker_data_named("circles2", &data), "data");
  refused(fokker_data_named("squares", &data), "squares");
  fokker_train_options_init(&train);
  train.iterations = 20, train.denoising_points = 64, train.time_law = "uniform";
  works(fokker_trainer_create(context, model, data, &train, &trainer), "a trainer");
  works(fokker_trainer_run(trainer, 1000, news, &seen), "training");
  works(fokker_trainer_iteration(trainer, &iteration), "how far it is");
  expect(seen == 20 && iteration == 20, "its iterations");
  works(fokker_trainer_model(trainer, &trained), "what it trained");
  train.time_law = "sometimes";
  refused(fokker_trainer_create(context, model, data, &train, &trainer), "sometimes");
  refused(fokker_trainer_run(NULL, 1, NULL, NULL), "trainer is NULL");
  train.time_law = "uniform", train.iterations = 2, train.residual_weight = 1, train.residual_probes = 1;
  works(fokker_trainer_create(context, model, data, &train, &probed), "a trainer whose residual is by probes");
  works(fokker_trainer_run(probed, 2, NULL, NULL), "training with that residual");
  train.probe_law = "sometimes";
  refused(fokker_trainer_create(context, model, data, &train, &probed), "sometimes");

  /* Fields in double. */
  works(fokker_fields_create(context, trained, 64, &fields), "fields");
  refused(fokker_fields_create(context, trained, 16, &fields), "16 bits");
  memset(&outputs, 0, sizeof outputs);
  outputs.score = &scores, outputs.value = &values, outputs.hessian = &hessians;
  works(fokker_fields_evaluate(fields, &time, &at, NULL, &outputs, NULL), "their values");
  expect(isfinite(score[0]) && isfinite(value[0]) && hessian[1] == hessian[2], "a symmetric Hessian");
  works(fokker_fields_hessian_vector(fields, &time, &at, NULL, &at, &scores), "a product");
  expect(fabs(score[0] - (0.5 * hessian[0] - 0.25 * hessian[1])) < 1e-12, "the Hessian's");
  refused(fokker_fields_evaluate(fields, NULL, &at, NULL, &outputs, NULL), "t is NULL");
  refused(fokker_fields_evaluate(fields, &time, &at, NULL, NULL, NULL), "outputs is NULL");
  refused(fokker_fields_evaluate(fields, &time, &samples, NULL, &outputs, NULL), "x is of type float32; allowed here: float64");
  refused(fokker_fields_evaluate(fields, &time, &at, &at, &outputs, NULL), "takes none");

  /* Samples by the flow with their log-densities, in parts, and their distance to the data. */
  works(fokker_sampler_create(context, trained, "uniform:20:0.01", &sampler), "a sampler");
  refused(fokker_sampler_create(context, trained, "uniform", &sampler), "uniform");
  fokker_sample_options_init(&how);
  how.scheme = "heun", how.seed = 5, how.log_density = &log_density;
  works(fokker_sampler_sample(sampler, &how, NULL, &samples), "samples");
  for (k = 0; k < POINTS; ++k) expect(isfinite(density[k]), "a log-density");
  how.log_density = NULL, how.first_index = 40;
  others.byte_offset = 40 * 2 * sizeof(float);
  sample_shape[0] = POINTS - 40;
  works(fokker_sampler_sample(sampler, &how, NULL, &others), "a part of them");
  sample_shape[0] = POINTS;
  expect(memcmp(x + 80, more + 80, sizeof(float) * 2 * (POINTS - 40)) == 0, "samples depend on their index alone");
  works(fokker_sampler_log_density(sampler, &samples, NULL, NULL, NULL, &log_density), "log-densities of given points");
  others.byte_offset = 0;
  works(fokker_data_draw(context, data, 3, 0, 0, &others), "draws");
  works(fokker_data_draw(context, data, 4, 0, 0, &samples), "other draws");
  works(fokker_w2_squared(context, &samples, &others, 64, box, &distance, &dual), "a distance");
  expect(distance > 0 && fabs(distance - dual) < 1e-9, "with its certificate");
  box[1] = -5;
  refused(fokker_w2_squared(context, &samples, &others, 64, box, &distance, &dual), "-5");
  works(fokker_sliced_w2_squared(context, &samples, &others, 16, 1, &distance), "a sliced distance");
  works(fokker_context_synchronize(context), "waiting");

  /* Tensors that are none of those. */
  wrong = samples, wrong.strides = strides;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "has strides [1, 99]; allowed: dense and row-major");
  wrong = samples, wrong.strides = dense;
  works(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "strides of a dense tensor");
  wrong = samples, wrong.dtype.bits = 16;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "samples is of type float16; allowed here: float32");
  wrong = samples, wrong.dtype.code = kDLInt;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "int32");
  wrong = samples, wrong.dtype.lanes = 4;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "float32×4");
  wrong = samples, wrong.device.device_type = kDLCUDA;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "is on device cuda");
  wrong = samples, wrong.device.device_type = kDLMetal;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "a device of another kind");
  wrong = samples, wrong.ndim = 3;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "3 axes");
  wrong = samples, wrong.byte_offset = 2;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "2 bytes off the alignment");
  wrong = samples, wrong.data = NULL;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "no data");
  wrong = samples, wrong.shape = NULL;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "no shape");
  wrong = samples, wrong.shape = no_shape, wrong.data = NULL;
  works(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "no samples");
  no_shape[0] = -1;
  refused(fokker_sampler_sample(sampler, NULL, NULL, &wrong), "[-1, 2]");
  refused(fokker_sampler_sample(sampler, NULL, NULL, NULL), "samples is NULL");
  how.scheme = "heun", how.eta = 1;
  refused(fokker_sampler_sample(sampler, &how, NULL, &samples), "eta 1 given with heun");
  refused(fokker_sampler_sample(NULL, NULL, NULL, &samples), "sampler is NULL");

  /* Handles stand alone, and NULL is given back too. */
  fokker_context_destroy(context);
  fokker_model_destroy(trained);
  works(fokker_sampler_sample(sampler, NULL, NULL, &samples), "a sampler without its context and its model");
  fokker_context_destroy(NULL);
  fokker_model_destroy(model);
  fokker_fields_destroy(fields);
  fokker_sampler_destroy(sampler);
  fokker_data_destroy(data);
  fokker_trainer_destroy(trainer);
  fokker_trainer_destroy(probed);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
