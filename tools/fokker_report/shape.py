"""What results.json holds. It is checked as a whole before any of it is used: the report takes results from elsewhere."""

import math

STATISTIC = {"mean": "number", "deviation": "number?", "least": "number", "median": "number", "most": "number"}
DISTANCES = ("ode_sde", "ode_truth", "sde_truth")
PAIRS = {key: "number?" for key in DISTANCES}
OVER_TIME = ("ode_sde", "potential_sde", "potential_ode")
SAMPLERS = {"ode": "number", "sde": "number"}
ESTIMATE = {"value": "number?", "standard_error": "number?", "step_error": "number?"}
BOUND = {"text": "text?", "vacuous": "flag"}
ACTIVATION = {"name": "text", "largest_second_derivative": "number"}
FAILED = {"folder": "text", "failed": "text", "training?": {"seconds": "number"}}
FINISHED = {
    "folder": "text", "data": "text", "residual_weight": "number", "seed": "number", "activation": ACTIVATION,
    "recipe": {"denoising_points": "number", "collocation_points": "number", "iterations": "number", "average": "text",
               "average_fraction?": "number", "schedule": "text", "peak_rate?": "number", "time_law": "text",
               "sde": {"name": "text", "parameters": "object"}},
    "model": {"summary": "text", "parameters": "number"},
    "training": {"seconds": "number"},
    "gap": {"w2_squared?": PAIRS, "sliced_w2_squared?": PAIRS, "noise_floor": "number?", "escaped": SAMPLERS,
            "warnings": ["text"],
            "residual?": {"mean_square": "number?", "centred_mean_square": "number?"}, "certificate_gap?": PAIRS,
            "grid_bias?": "number", "denoising_loss": "number?", "samples": "number",
            "along_the_way?": {"times": ["number"],
                               "w2_squared": {key: ["number?"] for key in OVER_TIME},
                               "escaped": {"ode": ["number"], "sde": ["number"]}, "potential_integrable": ["flag"],
                               "share_of_growing_directions": ["number"]},
            "along_eta?": [{"eta": "number", "ode": "number?", "truth": "number?", "escaped": "number"}],
            "seconds": {**SAMPLERS, "along_eta?": "number", "measure": "number"}},
    "diagnosis?": {"radial_slopes": {"integrable": "flag", "reason": "text?"},
                   "energy": {"dissipation": ESTIMATE, "balance": {"difference": ESTIMATE}},
                   "identity?": {key: ESTIMATE for key in ("kl_end", "left", "kl_prior", "residual_work", "right", "difference")},
                   "upper_bound": {"over_samples": BOUND, "over_box": BOUND, "diameter": "number"},
                   "resolved": "flag", "warnings": ["text"]}}
SUMMARY = {
    "data": "text", "activation": ACTIVATION, "residual_weight": "number", "seeds": "number",
    **{key: "statistic?" for key in ("ode_sde", "ode_truth", "sde_truth", "noise_floor", "grid_bias", "escaped_ode",
                                      "escaped_sde", "mean_square", "centred_mean_square", "denoising_loss")},
    "along_the_way?": {"w2_squared": {key: ["statistic?"] for key in OVER_TIME},
                       "noise_floor": ["statistic?"]},
    "along_eta?": {"eta": ["number"], **{key: ["statistic?"] for key in ("ode", "truth", "escaped")}},
    "published?": {"w2_squared": {key: "number" for key in DISTANCES}, "noise_floor": "number",
                   "escaped": SAMPLERS, "mean_square": "number"}}
RESULTS = {
    "version": "text", "preset": "text", "backend": "text", "threads": "number", "seeds": "number", "box": "number",
    "most_escaped": "number", "finished?": "flag", "seconds": "number", "machine": {"cpu": "text"},
    "warnings": ["text"],
    "backends": [{"name": "text", "detail": "text"}],
    "gap_options": {"samples": "number", "grid": "text", "ode_scheme": "text"},
    "verdicts": [{"data": "text", "activation": "text", "text": "text"}],
    "acceptance?": [{"data": "text", "criterion": "text", "outcome": "text", "numbers": "text"}],
    "summary": [SUMMARY]}


def is_number(value):
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


LEAVES = {"number": is_number, "text": lambda value: isinstance(value, str), "flag": lambda value: isinstance(value, bool),
          "object": lambda value: isinstance(value, dict)}


def check(value, shape, where=""):
    """Raises ValueError where a value does not have its shape: an object with keys, a list, or the name of a leaf. A '?' after
    a key or a leaf allows null, after a key also that it is missing. Other keys are passed over."""
    if isinstance(shape, str) and shape.endswith("?"):
        if value is None:
            return
        shape = shape[:-1]
    if shape == "statistic":
        shape = STATISTIC
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'it'} is no object")
        for name, inner in shape.items():
            key = name.removesuffix("?")
            if key not in value and key == name:
                raise ValueError(f"{where or 'it'} has no {key}")
            if key in value and not (value[key] is None and key != name):
                check(value[key], inner, f"{where}.{key}" if where else key)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} is no list")
        for i, item in enumerate(value):
            check(item, shape[0], f"{where}[{i}]")
    elif not LEAVES[shape](value):
        raise ValueError(f"{where} is no {shape}" + (" that is finite" if shape == "number" else ""))


def check_results(results):
    check(results, RESULTS)
    if not isinstance(results.get("runs"), list):
        raise ValueError("runs is no list")
    for i, run in enumerate(results["runs"]):
        where = f"runs[{i}]"
        check(run, FAILED if isinstance(run, dict) and "failed" in run else FINISHED, where)
        if run["folder"] in ("", ".", "..") or "/" in run["folder"]:
            raise ValueError(f"{where}.folder is not the name of a folder beside it")
        if "failed" not in run:
            check_run(run, where + ".gap")


def check_run(run, where):
    gap = run["gap"]
    distances = gap.get("w2_squared") or gap.get("sliced_w2_squared")
    if not distances:
        raise ValueError(f"{where} has no distances")
    way = gap.get("along_the_way")
    if way is None:
        return
    times = way["times"]
    if not times or times[-1] < 0 or times[0] <= 0 or any(a <= b for a, b in zip(times, times[1:])):
        raise ValueError(f"{where}.along_the_way.times do not fall from above 0 to 0 or more")
    lists = [*way["w2_squared"].values(), *way["escaped"].values(), way["potential_integrable"],
             way["share_of_growing_directions"]]
    if any(len(values) not in (0, len(times)) for values in lists) or not way["w2_squared"]["ode_sde"]:
        raise ValueError(f"{where}.along_the_way has lists of other lengths than its times")
