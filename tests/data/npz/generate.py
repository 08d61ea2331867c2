"""Makes the files of this folder: `python generate.py`, with numpy 2."""

import numpy as np

EXACT = np.arange(6).reshape(2, 3)


def arrays():
    for descr in ["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u2", "u4", "u8"]:
        yield f"dtype/{descr}", EXACT.astype(descr)
    yield "dtype/b1", EXACT % 2 == 1
    # The upper halves of f32 are bfloat16, which numpy can only call a void of two bytes.
    bf16 = (EXACT.astype("<f4").view("<u4") >> 16).astype("<u2")
    yield "dtype/V2", bf16.view("V2")
    yield "scalar", np.float32(2.5)
    yield "empty", np.zeros((0, 4), "f4")
    yield "fortran", np.asfortranarray(np.arange(24, dtype="f4").reshape(2, 3, 4))
    yield "zeros", np.zeros((64, 64), "f4")


ALL = dict(arrays())
np.savez("stored.npz", **ALL)
np.savez_compressed("deflated.npz", **ALL)
np.savez("big_endian.npz", w=EXACT.astype(">f4"))
np.savez("strings.npz", names=np.array(["a", "b"]))
tree = {"img/w": EXACT.astype("f4"), "llm/layers/w": 2 * EXACT.astype("f4"), "t": np.float32(10)}
np.savez(
    "train_state.npz",
    **{f"params/{k}": v for k, v in tree.items()},
    **{f"opt/0/mu/{k}": v for k, v in tree.items()},
    **{"opt/0/count": np.int32(7)},
)
np.savez("old_flax.npz", **{f"opt/target/{k}": v for k, v in tree.items()}, **{"opt/state/step": np.int32(7)})
