"""What a folder of `reproduce` holds."""

import json
import os

from .runs import Run
from .shape import check_results


def read_results(path):
    with open(path, encoding="utf-8") as file:
        try:
            results = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON ({error})") from error
    if isinstance(results, dict) and "runs" in results and "verdicts" not in results:
        raise ValueError(f"{path} is of an earlier version of reproduce; the same call of reproduce makes it anew, and "
                         "trains again where folders do not name activation and seed")
    try:
        check_results(results)
    except ValueError as error:
        raise ValueError(f"{path} is not as reproduce writes it: {error}") from error
    return results


def check_out(path, read):
    """What is read is not written."""
    if os.path.isdir(path):
        raise ValueError(f"--out {path} is a folder; allowed: a file name that ends in .html")
    for other in read:
        if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
            raise ValueError(f"--out {path} is {other}, which is read; the report needs another name")


def read_folder(folder):
    """Its results, the runs that are finished, and the entries of those that failed."""
    path = os.path.join(folder, "results.json")
    results = read_results(path)
    runs = [Run(folder, entry, results) for entry in results["runs"] if "failed" not in entry]
    if not runs:
        raise ValueError(f"{path} holds no finished run")
    return results, runs, [entry for entry in results["runs"] if "failed" in entry]
