#!/usr/bin/env python3
"""Puts a value of each other type in the place of each value of a results.json, and changes its text and the files of its runs
by chance, the same at each call: it is refused by a ValueError, which the report prints as one line, or what is let through is
of a type that the report can take. arguments: the folder of report.py, and results.json."""
import copy
import json
import os
import random
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from fokker_report.read import read_results
from fokker_report.shape import check_results
import fokker_report.runs as runs
import fokker_report.tables as tables
import report


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
    """All tables of the report, and what is said of the runs."""
    finished = [runs.Run(".", entry, results) for entry in results["runs"] if "failed" not in entry]
    if not finished:
        return
    tables.results_tables(finished), tables.summary_tables(results["summary"]), tables.published_tables(results["summary"])
    tables.recipe_table(results, finished), tables.acceptance_table(results.get("acceptance") or [])
    tables.eta_table(finished)
    diagnosed = [run for run in finished if run.diagnosis is not None]
    if diagnosed:
        tables.bound_table(diagnosed), tables.energy_tables(diagnosed)


PARTS = [b'null', b'true', b'-1', b'0', b'1e308', b'1e999', b'9' * 400, b'NaN', b'"', b'""', b'\\', b'\\ud800', b'[', b'{}', b']', b',',
         b':', b'\n', b'\0', b'\xff', b'\xe2\x80\xae', b'<b>', b"'"]


def changed(text, chance):
    """Bytes with a few changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        begin, length = chance.randrange(len(text) + 1), chance.choice((1, 2, 5, 30))
        part = text[begin:begin + length]
        to = chance.choice((b'', part + part, chance.choice(PARTS), bytes(b ^ 1 << chance.randrange(8) for b in part[:1]) + part[1:],
                            text[(other := chance.randrange(len(text) + 1)):other + length]))
        text = text[:begin] + to + text[begin + length:]
    return text if chance.random() < 0.95 else text[:chance.randrange(len(text) + 1)]


def moved(results, chance):
    """Results in which a value takes another's place, or is gone, or stands there twice."""
    results = copy.deepcopy(results)
    *to, key = chance.choice([path for path in leaves(results) if path])
    place, value = results, results
    for step in to:
        place = place[step]
    for step in chance.choice(list(leaves(results))):
        value = value[step]
    how = chance.choice(('moved', 'gone', 'twice'))
    if how == 'gone':
        del place[key]
    elif how == 'twice' and isinstance(place, list):
        place.insert(key, copy.deepcopy(place[key]))
    else:
        place[key] = copy.deepcopy(value)
    return results


def expect_refused_or_read(what, read):
    """Whether it was refused."""
    try:
        read()
        return False
    except ValueError as error:
        line = report.printable(error)
        assert line.isprintable() and 0 < len(line) <= 300, line
        return True
    except Exception as error:
        sys.exit(f"{what}: {type(error).__name__}: {error}")


def check_by_chance(results, path):
    """Texts of results.json, its values, and the files of its first run."""
    chance = random.Random(1)
    with open(path, 'rb') as file:
        text = file.read()
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, 'results.json')

        def read(data):
            with open(name, 'wb') as file:
                file.write(data)
            render(read_results(name))

        for i in range(400):
            data = changed(text, chance)
            expect_refused_or_read(f'text {i} ({data[:80]!r}…)', lambda: read(data))
        for i in range(400):
            other = moved(results, chance)
            expect_refused_or_read(f'values {i}', lambda: read(json.dumps(other).encode()))
        entry = next(entry for entry in results['runs'] if 'failed' not in entry)
        run = runs.Run(folder, entry, results)
        os.mkdir(run.folder)
        for name_of, use in (('log.csv', run.log), ('ode.npy', lambda: run.histogram('ode')),
                             ('along_the_way.npy', run.laws_over_time)):
            with open(os.path.join(os.path.dirname(path), entry['folder'], name_of), 'rb') as file:
                text = file.read()
            refused = 0
            for i in range(200):
                # What is behind the first bytes are numbers, which may have any value.
                data = changed(text[:300], chance) + text[300:]
                with open(run.file(name_of), 'wb') as file:
                    file.write(data)
                refused += expect_refused_or_read(f'{name_of} {i} ({data[:150]!r})', use)
            assert 0 < refused < 200, (name_of, refused)


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
    check_by_chance(results, sys.argv[2])


if __name__ == "__main__":
    main()
