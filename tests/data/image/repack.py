"""Copies what the tests need of the full image recordings: python repack.py SOURCE_FOLDER.

Kept: all small image files; all pp cases whose tensor is below 60 kB, and one of the model's own size; digests of
all decoded pixels; the notebook cases at size 64 whose pixels every decoder agrees on.
"""

import json
import pathlib
import shutil
import struct
import sys

HERE = pathlib.Path(__file__).parent
SAME_PIXELS = {"grad_37x53.png", "square_224x224.png", "thin_31x1000.png", "rgba_100x140.png",
               "rgb16_64x80.png", "adam7_45x58.png", "plain_30x40.bmp", "photo_427x640.jpg"}


def read(path):
  raw = path.read_bytes()
  length = struct.unpack("<Q", raw[:8])[0]
  header = json.loads(raw[8:8 + length])
  header.pop("__metadata__", None)
  begin = 8 + length
  return {k: (v, raw[begin + v["data_offsets"][0]:begin + v["data_offsets"][1]]) for k, v in header.items()}


def write(path, tensors):
  header, body = {}, b""
  for key, (info, data) in tensors.items():
    header[key] = {**info, "data_offsets": [len(body), len(body) + len(data)]}
    body += data
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main(source):
  source = pathlib.Path(source)
  (HERE / "files").mkdir(exist_ok=True)
  for file in sorted((source / "files").iterdir()):
    shutil.copyfile(file, HERE / "files" / file.name)

  recording = json.loads((source / "pp_image.json").read_text())
  tensors = read(source / "pp_image.safetensors")
  def small(case):
    model_size = (case["image"], case["chain"]) == ("photo_427x640.jpg", "decode|resize(224, antialias=True)")
    return "key" not in case or len(tensors[case["key"]][1]) < 60_000 or model_size
  cases = [case for case in recording["cases"] if small(case)]
  for case in cases:
    case.pop("tfdata_equal", None)
    case.pop("sha256", None)
  write(HERE / "pp_image.safetensors", {c["key"]: tensors[c["key"]] for c in cases if "key" in c})
  lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
  (HERE / "pp_image.json").write_text('{"cases":[\n' + lines + "\n]}\n")

  digests = {}
  for image in json.loads((source / "decode_stats.json").read_text())["images"]:
    digests[image["image"]] = {k: v for k, v in image.get("sha256_rgb", {}).items() if k != "pil_rgb" and v}
  lines = ",\n".join(f'"{name}":' + json.dumps(kinds, separators=(",", ":")) for name, kinds in digests.items())
  (HERE / "decoded.json").write_text("{\n" + lines + "\n}\n")

  recording = json.loads((source / "notebook.json").read_text())
  tensors = read(source / "notebook.safetensors")
  cases = [c for c in recording["cases"] if "key" in c and c["size"] == 64 and c["image"] in SAME_PIXELS]
  write(HERE / "notebook.safetensors", {c["key"]: tensors[c["key"]] for c in cases})
  lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
  (HERE / "notebook.json").write_text('{"cases":[\n' + lines + "\n]}\n")


if __name__ == "__main__":
  main(sys.argv[1])
