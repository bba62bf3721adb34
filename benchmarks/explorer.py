"""Frame times of the map of `llamavae explore` with random points, in chromium.

    python benchmarks/explorer.py --points 50000

Needs the extras serve and dev, chromium and chromium-driver. The browser draws without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time

import numpy as np
import torch
from selenium import webdriver

from llamavae import LlaMaVAE
from llamavae.explorer import Space, create_explorer
from llamavae.serving.server import listen, run, url

FRAMES = """
const [kind, done] = arguments;
const {width, height} = explorer;
const times = [];
let last = performance.now();
let frame = 0;
function step(now) {
  if (frame > 5) times.push(now - last);  // after warming up
  last = now;
  if (frame++ > 120) return done(times);
  if (kind === "pan") explorer.pan(frame % 40 < 20 ? 6 : -6, 3);
  else explorer.zoom(frame % 40 < 20 ? 1.05 : 1 / 1.05, [width / 3, height / 3]);
  requestAnimationFrame(step);
}
requestAnimationFrame(step);
"""


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    return webdriver.Chrome(options, webdriver.ChromeService(str(shutil.which("chromedriver"))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=50_000)
    count = parser.parse_args().points
    model = LlaMaVAE.from_pretrained("mini")
    z = torch.randn(count, model.config.latent_dim, generator=torch.Generator().manual_seed(0))
    labels = {"group": np.random.default_rng(0).integers(0, 8, count).tolist()}
    texts = [f"sentence number {i}" for i in range(count)]
    space = Space(texts, z, torch.zeros_like(z), labels)
    app = create_explorer(model, space, name="random")
    listener = listen("127.0.0.1", 0)
    threading.Thread(target=run, args=(app, listener), daemon=True).start()
    driver = browser()
    driver.set_script_timeout(300)
    start = time.perf_counter()
    driver.get(url(listener))
    while not driver.execute_script("return document.documentElement.dataset.ready"):
        time.sleep(0.05)
    found = {"points": count, "load": round(time.perf_counter() - start, 2)}
    for kind in ("pan", "zoom"):
        times = np.array(driver.execute_async_script(FRAMES, kind))
        found[kind] = {f"p{q}": round(float(np.percentile(times, q)), 1) for q in (50, 95, 99)}
    pick = "const t = performance.now(); for (let i = 0; i < 100; i++) explorer.nearest([i, i]);"
    found["nearest"] = driver.execute_script(f"{pick} return (performance.now() - t) / 100;")
    driver.quit()
    print(json.dumps(found), flush=True)
    os._exit(0)  # the service runs in a thread


if __name__ == "__main__":
    main()
