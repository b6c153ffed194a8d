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
import os
import subprocess
import sys

DISTRIBUTION_PYTHON = "/usr/bin/python3"
HERE = os.path.dirname(os.path.realpath(__file__))


def find_packages():
    """numpy and matplotlib. Called once the arguments are parsed, so that --help works without them."""
    try:
        import matplotlib

        matplotlib.use("Agg")
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
    from fokker_report.page import write_report

    write_report(arguments.folder, out)
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
