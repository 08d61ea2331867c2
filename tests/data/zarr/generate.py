"""Writes varied/: arrays in the layouts that zarr of version 2 has. Needs tensorstore, zarr<3 and numcodecs<0.16."""

import pathlib
import shutil

import ml_dtypes
import numcodecs
import numpy as np
import tensorstore as ts
import zarr

ROOT = pathlib.Path(__file__).parent / "varied"
shutil.rmtree(ROOT, ignore_errors=True)

# 0 to 34 in five rows, in chunks that do not divide them.
VALUES = np.arange(35).reshape(5, 7)


def by_tensorstore(name, dtype, values=VALUES, **metadata):
    array = values.astype(dtype)
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{ROOT / name}/"},
        "metadata": {
            "shape": array.shape,
            "chunks": [2, 3][: array.ndim],
            "dtype": "bfloat16" if dtype == ml_dtypes.bfloat16 else np.dtype(dtype).str,
            "compressor": {"id": "zstd", "level": 1},
            **metadata,
        },
        "create": True,
    }
    ts.open(spec).result().write(array).result()


def by_zarr(name, dtype, **options):
    array = zarr.open(zarr.DirectoryStore(ROOT / name), "w", shape=VALUES.shape, chunks=(2, 3), dtype=dtype, **options)
    array[:] = VALUES


by_tensorstore("params~zstd", "f4")
by_tensorstore("params~bfloat16", ml_dtypes.bfloat16)
by_tensorstore("params~plain", "f8", compressor=None)
by_tensorstore("params~nested", "i4", dimension_separator="/")
by_tensorstore("params~zlib", "f4", compressor={"id": "zlib", "level": 1})
by_tensorstore("params~row", "i8", values=np.arange(7))
by_zarr("params~gzip", "<f2", compressor=numcodecs.GZip(1))
by_zarr("params~fortran", "<f4", compressor=None, order="F")
by_zarr("params~big_endian", ">f4", compressor=numcodecs.Zstd(1))
by_zarr("params~bytes", "|u1", compressor=numcodecs.Zstd(1))
by_zarr("params~bits", "|b1", compressor=numcodecs.Zstd(1))
# A chunk that was never written, in place of 3, 4, 5 and 10, 11, 12 in the first two rows.
by_zarr("params~absent", ">f4", compressor=numcodecs.Zstd(1), fill_value=-1.5)
(ROOT / "params~absent" / "0.1").unlink()
# A file beside the arrays.
(ROOT / ".zgroup").write_text('{"zarr_format": 2}')
