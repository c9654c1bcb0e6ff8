"""The explorer at the size of MIMIC-CXR's test split: 3,858 samples, two runs, every image; bytes, paint, filters.

    python -m benchmarks.explorer [--browser FILE] [--folder DIR]

Reports and images are drawn ones (phantom); the runs are random reports from a train split, with values, labels and
entities of the embedded annotators (`--plain`: without labels and entities). Times are taken in Chromium by its own
clock: first contentful paint as the browser reports it, a filter from the event to the end of the next frame. With
--folder the runs are kept there and used again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._large_task import large_task

SAMPLES = 3_858
LIMIT_BYTES, LIMIT_PAINT, LIMIT_FILTER = 30e6, 1.5, 0.1
METRICS = "required: [bleu:raw, rouge-l:raw, length], optional: [%s]"
FILTERS = {
    "search": "q.value = 'effusion'; q.dispatchEvent(new Event('input'))",
    "reset": "document.getElementById('reset').click()",
    "group": "g.value = 'sex=F'; g.dispatchEvent(new Event('change'))",
    "error": "e.value = 'missed'; e.dispatchEvent(new Event('change'))",
    "value": "h.value = '0.3'; h.dispatchEvent(new Event('input'))",
    "order": "o.value = 'worst'; o.dispatchEvent(new Event('change'))",
}
TIMED = """async () => {
  const [q, g, e, h, o] = ['query', 'group', 'error', 'high', 'order'].map(id => document.getElementById(id));
  const start = performance.now();
  %s;
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""


def command(*words: object) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cxrbench", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def looked_at(page_file: Path, browser: str, repeats: int = 5) -> dict[str, float]:
    """Seconds: medians of several openings."""
    from playwright.sync_api import sync_playwright

    found: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(repeats):
            page = chromium.new_page(viewport={"width": 1440, "height": 900})
            page.goto(page_file.as_uri())
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
            found.setdefault("first paint", []).append(page.evaluate(paint) / 1e3)
            usable = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
            found.setdefault("all read", []).append(page.evaluate(usable) / 1e3)
            for name, act in FILTERS.items():
                found.setdefault(f"filter: {name}", []).append(page.evaluate(TIMED % act) / 1e3)
            page.close()
        chromium.close()
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--browser", default=shutil.which("chromium") or "")
    parser.add_argument("--plain", action="store_true", help="without labels and entities")
    parser.add_argument("--folder", type=Path, help="where runs are kept, and taken from if they are there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (asked.folder or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        task = folder / "large.yaml"
        optional = "" if asked.plain else "chexbert-f1, radgraph-f1"
        task.write_text(large_task(SAMPLES, 256, METRICS % optional))
        runs = [folder / "one", folder / "two"]
        for seed, run in enumerate(runs):
            if (run / "summary.json").exists():
                continue
            command("run", "--model", "random-report", "--task", task, "--seed", seed, "--replicates", 0, "--out", run)
        file = folder / "page.html"
        seconds = command("explore", *runs, "-o", file)
        size = file.stat().st_size
        print(f"{'built':<18}{seconds:8.1f} s")
        print(f"{'size':<18}{size / 1e6:8.1f} MB   asked: below {LIMIT_BYTES / 1e6:.0f}")
        if not asked.browser:
            print("no chromium: nothing was opened")
            return
        for what, took in looked_at(file, asked.browser).items():
            limit = LIMIT_PAINT if what == "first paint" else LIMIT_FILTER if what.startswith("filter") else None
            print(f"{what:<18}{took * 1e3:8.0f} ms" + (f"   asked: below {limit * 1e3:.0f}" if limit else ""))


if __name__ == "__main__":
    main()
