"""Photographs the page of `atrous serve` into docs/images/serve.png, in headless Chromium.

The network is Google's MobileNetV2 DeepLabV3, whose file is not part of the project; the picture is scikit-image's cat:

    python docs/figures/serve.py deeplabv3_257_mv_gpu.tflite
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from skimage import data

import atrous

TARGET = Path(__file__).parents[1] / "images" / "serve.png"


def main() -> None:
    """Serves the model, shows it the picture, moves the line to its middle."""
    with tempfile.TemporaryDirectory() as folder:
        model, picture = Path(folder) / "voc.safetensors", Path(folder) / "cat.png"
        atrous.save(atrous.convert(Path(sys.argv[1]), source="tensorflow"), model)
        Image.fromarray(data.chelsea()).save(picture)
        command = [sys.executable, "-u", "-m", "atrous", "serve", str(model), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as server:
            assert server.stdout is not None
            found = next(filter(None, (re.search(r"http://\S+", line) for line in server.stdout)))
            photograph(found[0], picture)
            server.terminate()


def photograph(address: str, picture: Path) -> None:
    """Shows the page a picture, and takes one of it."""
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    browser.set_window_size(1180, 760)
    browser.get(address)
    time.sleep(1)
    browser.find_element("id", "file").send_keys(str(picture))
    for _ in range(100):
        if "pixels in" in browser.find_element("id", "status").text:
            break
        time.sleep(0.1)
    # A second time, as the first picture of a size takes longer.
    browser.find_element("id", "file").send_keys(str(picture))
    time.sleep(3)
    browser.execute_script(
        "const split = document.getElementById('split'); split.value = 38; split.dispatchEvent(new Event('input'));"
    )
    time.sleep(0.5)
    browser.save_screenshot(str(TARGET))
    browser.quit()
    shot = Image.open(TARGET).convert("RGB").quantize(200, dither=Image.Dither.NONE)
    shot.save(TARGET, optimize=True)
    print(TARGET, TARGET.stat().st_size)


if __name__ == "__main__":
    main()
