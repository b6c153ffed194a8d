#!/bin/sh
# The launcher of the kernels' compiler (CMakeLists.txt): runs it, keeps ptxas's report of registers, stack and spills as
# OBJECT.ptxas beside the object, for tests/kernel_resources_test.py, and passes on what else the compiler says.
object='' previous=''
for argument; do
  if [ "$previous" = -o ]; then object=$argument; fi
  previous=$argument
done
if [ -z "$object" ]; then exec "$@"; fi
"$@" 2> "$object.ptxas"
status=$?
grep -v -e '^ptxas info ' -e '^ *[0-9]* bytes stack frame' "$object.ptxas" >&2
exit $status
