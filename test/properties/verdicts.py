"""The verdicts of safetensors on files from the standard input.

A file is its length, u32 little-endian, and its bytes. The answer is one line: "accepted" with the tensors, sorted by name,
as name, type, shape and SHA-1 of the bytes; or "refused" with the reason.
"""

import hashlib
import json
import struct
import sys

from safetensors import SafetensorError, deserialize

source, answer = sys.stdin.buffer, sys.stdout
while len(head := source.read(4)) == 4:
    file = source.read(struct.unpack("<I", head)[0])
    try:
        tensors = sorted(
            [name, t["dtype"], t["shape"], hashlib.sha1(bytes(t["data"])).hexdigest()] for name, t in deserialize(file)
        )
        line = "accepted " + json.dumps(tensors)
    except SafetensorError as error:
        line = "refused " + json.dumps(str(error))
    except BaseException as error:  # a panic of the reference implementation
        line = "panicked " + json.dumps(repr(error))
    answer.write(line + "\n")
    answer.flush()
