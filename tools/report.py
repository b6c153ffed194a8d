#!/usr/bin/env python3
"""Figures and an HTML report from what `reproduce --out DIR` left in DIR.

Reads DIR/results.json and, for each run, its log.csv, histograms and along_the_way.npy; writes DIR/figures/*.png and one
self-contained HTML file (DIR/report.html), and prints its name. Needs numpy and matplotlib, from Debian's python3-numpy
and python3-matplotlib; where this Python lacks them and /usr/bin/python3 has them, that one does the work.

examples:
  report.py build/demo
  report.py results --out /tmp/report.html

exit codes: 0 done, 1 failed (one sentence on standard error), 2 wrong usage
"""

import argparse
import json
import os
import subprocess
import sys

DISTRIBUTION_PYTHON = "/usr/bin/python3"
HERE = os.path.dirname(os.path.realpath(__file__))


def find_packages():
    """numpy and matplotlib. Called once the arguments are parsed, so that --help works without them."""
    try:
        import matplotlib.pyplot
        import numpy
    except ImportError as error:
        # A Python of the user's own often has neither, and Debian's does.
        imports = [DISTRIBUTION_PYTHON, "-c", "import numpy, matplotlib.pyplot"]
        if (sys.executable != DISTRIBUTION_PYTHON and os.access(DISTRIBUTION_PYTHON, os.X_OK)
                and subprocess.run(imports, stderr=subprocess.DEVNULL, check=False).returncode == 0):
            os.execv(DISTRIBUTION_PYTHON, [DISTRIBUTION_PYTHON, os.path.abspath(__file__), *sys.argv[1:]])
        raise ValueError(f"{sys.executable} cannot import numpy and matplotlib ({error}); install the Debian packages "
                         "python3-numpy and python3-matplotlib") from error
    # The report's modules lie beside this file, and where it is installed in share/fokker.
    sys.dont_write_bytecode = True
    sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "share", "fokker")]


def read_results(path):
    from fokker_report.shape import check_results

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


def printable(text):
    """As one line that does nothing to a terminal."""
    line = "".join(c if c.isprintable() else "?" for c in str(text))
    return line if len(line) <= 300 else f"{line[:149]}…{line[-150:]}"


def fail(why):
    print(f"report.py: {printable(why)}", file=sys.stderr)
    sys.exit(1)


def main():
    title, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(description=title, epilog=rest.strip(),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="the --out folder of reproduce")
    parser.add_argument("--out", metavar="FILE.html", help="the report (default: DIR/report.html)")
    wrong_usage = parser.error
    parser.error = lambda text: wrong_usage(printable(text))
    arguments = parser.parse_args()
    out = arguments.out if arguments.out is not None else os.path.join(arguments.folder, "report.html")
    if not out.endswith(".html"):
        parser.error(f"--out '{out}' given; allowed: a name that ends in .html")
    find_packages()
    from fokker_report.files import write_file
    from fokker_report.page import page
    from fokker_report.runs import Run

    results_file = os.path.join(arguments.folder, "results.json")
    results = read_results(results_file)
    runs = [Run(arguments.folder, entry, results) for entry in results["runs"] if "failed" not in entry]
    failed = [entry for entry in results["runs"] if "failed" in entry]
    if not runs:
        raise ValueError(f"{results_file} holds no finished run")
    check_out(out, [results_file, *(path for run in runs for path in run.files())])
    write_file(out, page(results, runs, failed, os.path.join(arguments.folder, "figures")).encode("utf-8", "replace"))
    print(printable(out))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        fail(error)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else error)
    except MemoryError:
        fail("not enough memory for results this large")
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        fail(f"what results.json says does not fit together ({type(error).__name__}: {error})")
