"""Reads mutated files, one after another, until it is stopped: `python fuzz.py FOLDER FIRST`.

Each has a line in FOLDER/log with its number and kind, and what came of it: "read", "refused" by a sentence that
names the file, "unclear" with the error, or "memory".
"""

import io
import json
import random
import resource
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tiny_models import tiny_model, tiny_pool

from freelib.datasets.sources import source_at
from freelib.methods import get_method
from freelib.models.pretrained import save_member
from freelib.models.readers import read_pool
from freelib.run.learners import load_learner, save_learner
from freelib.run.records import KEYED, RecordStore, complete
from freelib.storage import Checkpoint

MEMORY = 2**31  # bytes, over what the libraries take
VALUES = [None, True, -1, 0, 2**31, 10**12, 10**400, 1e308, float("nan"), "", "../x", "/dev/zero", "é\x1b[31m\0"]
VALUES += ["9" * 5000, [], {}, [[]] * 3, {"a": {}}, [1.0], "torchvision/resnet18", "free", "x" * 300]
NETWORKS = {"linear": lambda n: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, n))}
FORMS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
ABOUT = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}}}


def make(folder):
    """Whole files, in a folder for each of READERS."""
    for name in ("own", "tree/cat", "table"):
        (folder / name).mkdir(parents=True)
    config, pool = get_method("random").Config(width=4), tiny_pool(1)
    save_member(tiny_model(), folder / "member")
    about = {"method": "random", "config": config, "seed": 0, "pool": pool}
    save_learner(get_method("random").meta_train(pool, config, seed=0), folder / "learner", **about)
    torch.save(NETWORKS["linear"](2).state_dict(), folder / "own/m.pt")
    card = {"arch": "linear", "class_names": ["a", "b"], "image_size": 8, "mean": [0.5] * 3, "std": [0.2] * 3}
    (folder / "own/m.json").write_text(json.dumps(card | {"accuracy": 0.5, "domain": "d", "options": {}}))
    words = dict.fromkeys(("experiment", "method", "dataset", "freelib_version", "python", "torch", "started"), "x")
    fields = dict.fromkeys(KEYED) | words | {"method_revision": 1, "seed": 0, "config": {"a": [1, None]}}
    RecordStore(folder / "record").put(complete(fields))
    Checkpoint(folder / "state/run.pt").save({"round": 3, "parts": {"w": torch.rand(4)}})
    for form in FORMS:
        Image.effect_mandelbrot((24, 24), (-2, -1, 1, 1), 9).convert("RGB").save(folder / f"tree/cat/1.{form.lower()}")
    pictures = [file.read_bytes() for file in sorted((folder / "tree/cat").iterdir())]
    rows = [{"image": {"bytes": data, "path": "x"}, "label": i % 2} for i, data in enumerate(pictures)]
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(ABOUT)})
    pq.write_table(table, folder / "table/t.parquet")


def read_images(folder):
    """All images of all classes of a folder or a table."""
    source = source_at("drawn", folder, {})
    return [source.read_class(name, 8) for name in source.found]


READERS = {
    "member": read_pool, "own": lambda folder: read_pool(folder, NETWORKS), "learner": load_learner,
    "record": lambda folder: RecordStore(folder).all(), "state": lambda folder: Checkpoint(folder / "run.pt").load(),
    "tree": read_images, "table": read_images,
}  # fmt: skip


def in_json(value, rng):
    """The value with one thing in it changed, left out or renamed."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(VALUES)
    items = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    key, kind = rng.choice(list(items)), rng.random()
    changed = items.pop(key)
    if kind > 0.1:
        items[key if kind > 0.2 else rng.choice(["x", "__metadata__"])] = in_json(changed, rng)
    return items if isinstance(value, dict) else list(items.values())


def in_bytes(data, rng):
    """The bytes, three times changed: some overwritten, a part cut, doubled, zeroed or left out."""
    for _ in range(rng.randint(1, 3)):
        a, b = sorted(rng.randint(0, min(len(data), rng.choice([64, 1024, 2**30]))) for _ in range(2))
        new = rng.choice([b"\xff" * 4, b"\x7f", b"\0\x80", rng.randbytes(2)])
        written = data[:a] + new + data[a + len(new) :]
        parts = [data[:a], data[:a] + data[b:], data[:b] + data[a:], data[:a] + bytes(b - a) + data[b:]]
        data = rng.choice([written, written, written, *parts])
    return data


def mutated(file, data, rng):
    """Another content for a file: in its JSON, be that a safetensors header or a table's, or as bytes."""
    if rng.random() < 0.5 and file.suffix == ".json":
        return json.dumps(in_json(json.loads(data), rng)).encode()
    if rng.random() < 0.5 and file.suffix == ".safetensors":
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.dumps(in_json(json.loads(data[8:end]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + data[end:]
    if rng.random() < 0.8 and file.suffix == ".parquet":
        table, out = pq.read_table(io.BytesIO(data)), io.BytesIO()
        rows = table.to_pylist()
        cell = rng.choice(rows)["image"]
        cell["bytes"] = in_bytes(cell["bytes"], rng)
        about = {"huggingface": json.dumps(in_json(ABOUT, rng))}
        pq.write_table(pa.Table.from_pylist(rows, table.schema).replace_schema_metadata(about), out)
        return out.getvalue()
    return in_bytes(data, rng)


def outcome(read, folder):
    """What comes of reading a folder."""
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            read(folder)
        return "refused" if any("is damaged" in str(warning.message) for warning in told) else "read"
    except Exception as error:
        said = ascii(f"{type(error).__name__}: {error}")
        if isinstance(error, ValueError | FileNotFoundError) and str(folder) in said:
            return "refused"
        return f"{'memory' if isinstance(error, MemoryError) or 'alloc' in said else 'unclear'} {said}"


def main(work, number):
    """Makes the files where they are not there yet, and reads them with one of them mutated, without end."""
    if not (work / "whole").exists():
        make(work / "whole")
    files = {kind: [f for f in sorted((work / "whole" / kind).rglob("*")) if f.is_file()] for kind in READERS}
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    with (work / "log").open("a", buffering=1) as log:
        while True:
            rng = random.Random(number)
            kind = rng.choice(list(READERS))
            chosen = rng.choice(files[kind])
            for file in files[kind]:
                target, data = work / file.relative_to(work / "whole"), file.read_bytes()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(mutated(file, data, rng) if file == chosen else data)
            print(number, kind, outcome(READERS[kind], work / kind)[:500], file=log)
            for file in (work / kind).rglob("*.damaged*"):
                file.unlink()
            number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
