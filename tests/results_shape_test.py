#!/usr/bin/env python3
"""Puts a value of each other type in the place of each value of a results.json: the check refuses it by a ValueError, or what it
lets through is of a type that the report can take. arguments: the folder of report.py, and results.json."""
import copy
import json
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from fokker_report.shape import check_results
import fokker_report.runs as runs
import fokker_report.tables as tables


def leaves(value, path=()):
    yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else list(enumerate(value))[:2]:
            yield from leaves(item, (*path, key))


def with_value(results, path, value):
    results = copy.deepcopy(results)
    place = results
    for key in path[:-1]:
        place = place[key]
    if path:
        place[path[-1]] = value
    return results if path else value


def render(results):
    """All tables of the report."""
    finished = [runs.Run(".", entry, results) for entry in results["runs"] if "failed" not in entry]
    if not finished:
        return
    tables.results_tables(finished), tables.summary_tables(results["summary"]), tables.published_tables(results["summary"])
    tables.recipe_table(results, finished), tables.acceptance_table(results.get("acceptance") or [])
    diagnosed = [run for run in finished if run.diagnosis is not None]
    if diagnosed:
        tables.bound_table(diagnosed), tables.energy_tables(diagnosed)


def main():
    with open(sys.argv[2], encoding="utf-8") as file:
        results = json.load(file)
    check_results(results)
    render(results)
    tried = refused = 0
    for path in leaves(results):
        for value in (None, True, -1e300, 10**400, float("nan"), "text", [], {}, [None], {"a": 1}):
            tried += 1
            other = with_value(results, path, value)
            try:
                check_results(other)
                render(other)
            except ValueError:
                refused += 1
            except Exception as error:
                sys.exit(f"{path} = {value!r}: {type(error).__name__}: {error}")
    assert refused > tried // 3, (tried, refused)
    for path, value, what in (
            (("runs", 0, "folder"), "../out", "runs[0].folder is not the name of a folder"),
            (("runs", 0, "folder"), "..", "runs[0].folder is not the name of a folder"),
            (("runs", 0, "gap", "along_the_way", "times"), [], "along_the_way.times do not fall"),
            (("runs", 0, "gap", "along_the_way", "potential_integrable"), [True], "lists of other lengths"),
            (("runs", 0, "gap", "w2_squared"), None, "runs[0].gap has no distances"),
            (("summary", 0, "data"), "other", "has no summary of"),
            (("summary",), [], "has no summary of"),
            (("box",), "wide", "box is no number that is finite")):
        try:
            other = with_value(results, path, value)
            check_results(other)
            render(other)
        except ValueError as error:
            assert what in str(error), error
        else:
            sys.exit(f"{path} = {value!r} is let through")


if __name__ == "__main__":
    main()
