"""Measures the peak memory of `atrous predict` for a 512×512×800 CT.

    python benchmarks/volume_memory.py MODEL SERIES [--slices 800]

SERIES is a volume or a DICOM series. Its slices are repeated until their number is --slices, and the volume is written
as a compressed NIfTI file of 16-bit integers. The command runs in a process of its own. Prints its peak memory, its
time, and the number of classes of the model. A peak above 2 GB is an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from volumes import repeated

import atrous
from atrous.data.volumes.read_volume import read_volume

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from peak_memory import peak_of_process
from atrous.cli import main
code = main(["predict", *sys.argv[2:]])
print("PEAK", peak_of_process())
sys.exit(code)
"""
#: Largest peak memory, in bytes.
LIMIT = 2e9


def main() -> None:
    """Asserts that the peak memory is within the limit, and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model file")
    parser.add_argument("series", type=Path, help="file of a volume, or folder of a DICOM series")
    parser.add_argument("--slices", type=int, default=800, help="number of axial slices")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        volume = repeated(read_volume(options.series), options.slices)
        path = Path(folder) / "scan.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.values.astype(np.int16), volume.grid.affine), path)
        shape = "×".join(map(str, volume.grid.shape))
        del volume
        words = [str(Path(__file__).parent), str(options.model), str(path), "--out", str(Path(folder) / "masks")]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True, encoding="utf-8", check=True
        )
        seconds = time.perf_counter() - start
    peak = int(done.stdout.split("PEAK")[1])
    print(f"{shape}, {len(atrous.load(options.model).info.classes)} classes: peak {peak / 1e9:.2f} GB, {seconds:.0f} s")
    assert peak <= LIMIT, f"more than {LIMIT / 1e9:.0f} GB"


if __name__ == "__main__":
    main()
