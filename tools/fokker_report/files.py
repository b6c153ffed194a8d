"""Files that the report writes."""

import os


def write_file(path, data):
    """To a name beside it and then renamed: a failure leaves what was there, and what a symbolic link of that name leads to
    stays as it is."""
    temporary = f"{path}.{os.getpid()}.tmp"
    file = open(temporary, "xb")
    try:
        with file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
