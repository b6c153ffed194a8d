"""Every part of a filter by which ctest picks tests matches one at least: gtest lists nothing without a complaint.

usage: filters_test.py EXECUTABLE FILTER [EXECUTABLE FILTER ...]
"""
import fnmatch
import functools
import subprocess
import sys


@functools.cache
def tests_of(executable):
    listed = subprocess.run([executable, '--gtest_list_tests'], capture_output=True, text=True, check=True).stdout
    tests, suite = [], ''
    for line in listed.splitlines():
        name = line.split('#')[0].rstrip()  # behind it stand values of parameters
        if line.startswith('  '):
            tests.append(suite + name.strip())
        else:
            suite = name
    return tests


arguments = iter(sys.argv[1:])
unmatched = [(executable, part)
             for executable, parts in zip(arguments, arguments)
             for part in filter(None, parts.replace('-', ':', 1).split(':'))
             if not fnmatch.filter(tests_of(executable), part)]
for executable, part in unmatched:
    print(f'{executable} has no test for the filter\'s part {part}')
sys.exit(bool(unmatched) or len(sys.argv) < 3)
